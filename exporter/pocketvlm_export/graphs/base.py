"""Knows what a graph to trace is and how it becomes an ONNX model; nothing about files."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import onnx_ir as ir
import torch
from torch import nn

from pocketvlm.errors import PocketVLMError
from pocketvlm_export.quiet import quiet_tracer
from pocketvlm_export.upstream import quick_tracing

OPSET = 20  # every current runtime loads it; newer ones add nothing these graphs need
BATCH = "batch_size"  # transformers.js builds its empty cache by this name


class Graph(Protocol):
    """A graph to trace.

    Attributes:
        kind: one of `pocketvlm.artifact.metadata.GRAPH_KINDS`.
        module: a float32 module in eval mode.
        input_names, output_names: in the order of the module's flattened arguments and results.
        dynamic_axes: for each argument, {axis: name}, nested as the arguments are.
        output_axes: names of an output's dynamic axes, {output: {axis: name}}, and of those of an
            input that the tracer would name by an expression.
    """

    kind: str
    module: nn.Module
    input_names: Sequence[str]
    output_names: Sequence[str]
    dynamic_axes: tuple[Any, ...]
    output_axes: Mapping[str, Mapping[int, str]]

    def sample_inputs(self) -> tuple[Any, ...]:
        """Return arguments of the module, every dynamic axis longer than one."""


def trace(graph: Graph) -> ir.Model:
    """Trace ``graph`` with torch's dynamo exporter at opset `OPSET`.

    The model's weights are still the module's tensors, not copies of them: free the module only
    after saving.

    Raises:
        PocketVLMError: what the module itself refuses; torch's tracer wraps it in an error of its
            own.
    """
    try:
        with quiet_tracer(), quick_tracing(), torch.no_grad():
            program = torch.onnx.export(
                graph.module,
                graph.sample_inputs(),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                dynamic_shapes=graph.dynamic_axes,
                # Torch's folding would copy every transposed weight at once; `onnx_passes` does it
                # a weight at a time.
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        if refusal := _refusal_in(error):
            raise refusal from refusal.__cause__
        raise
    assert program is not None
    return program.model


def _refusal_in(error: BaseException | None) -> PocketVLMError | None:
    """The refusal among the causes of an error, if there is one."""
    while error is not None and not isinstance(error, PocketVLMError):
        error = error.__cause__ or error.__context__
    return error
