"""Knows the settings and results of torch's exporter that its documentation does not list."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import fx

TRACER_LOGGER = "torch.onnx._internal.exporter._registration"
"""Logger that warns of each torchvision operator that is not installed, at every export."""


def assume(condition: Any) -> None:
    """Promise the tracer that a condition on a size known only at run time holds (`torch._check`).

    A size that comes from ``Tensor.item()`` has no bounds. Without them a slice of the last of so
    many rows is not known to be one row, and the graph's axes become expressions. The constraints
    of ``torch.export`` that are public are for inputs only.
    """
    torch._check(condition)


@contextmanager
def quick_tracing() -> Iterator[None]:
    """Let torch's exporter do for each graph within the block no more than it must.

    - It lists the ONNX functions that it has at every call, parsing the source of many. The list is
      kept for as long as the process runs.
    - Decomposing runs a program twice: to learn whether its outputs alias anything, and to record
      it. What the program says of its outputs answers the first where that is safe; see
      `_outputs_of`.
    - Where capturing a module fails, it silently captures it a second way, slower, in which numpy
      becomes part of the graph. The first failure is the error here.

    No graph changes: each is byte for byte the one that torch makes by itself. A release of torch
    that has not what is replaced here takes longer, and that is all.
    """
    try:
        from torch._functorch._aot_autograd import graph_capture_wrappers
        from torch.onnx._internal.exporter import _capture_strategies as capturing
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        first = capturing.CAPTURE_STRATEGIES[:1]
        running = graph_capture_wrappers.PropagateUnbackedSymInts
        kept = functools.partial(_operators, vars(ONNXRegistry)["from_torchlib"])
        recorded = _recorded_only(running)
    except (ImportError, AttributeError, KeyError):
        yield
        return
    with (
        mock.patch.object(ONNXRegistry, "from_torchlib", kept),
        mock.patch.object(capturing, "CAPTURE_STRATEGIES", first),
        mock.patch.object(graph_capture_wrappers, running.__name__, recorded),
    ):
        yield


@functools.cache
def _operators(listing: Any, opset_version: int) -> Any:
    """What ``listing``, a class method, returns for an opset."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return listing.__get__(None, ONNXRegistry)(opset_version=opset_version)


def _recorded_only(running: Any) -> Any:
    """An interpreter of programs like ``running`` that runs one only when that is recorded, and
    else returns what the program says of its outputs."""
    from torch._functorch._aot_autograd.functional_utils import to_fun
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    class RecordedOnly(running):
        def run(self, *arguments: Any, **options: Any) -> Any:
            outputs = None if get_proxy_mode() else _outputs_of(self.module.graph)
            if outputs is None:
                return super().run(*arguments, **options)
            return tuple(to_fun(output) for output in outputs)

    return RecordedOnly


def _outputs_of(program: fx.Graph) -> Sequence[torch.Tensor] | None:
    """Return the outputs that tracing has noted in a program, of fake tensors; None where running
    it would tell more.

    That is the case if an output shares its memory with an input, a weight or another output, if an
    input or a weight is changed in place, or if a size is known at run time only.
    """
    outside = [node for node in program.nodes if node.op in ("placeholder", "get_attr")]
    for node in program.nodes:
        if "unbacked_bindings" in node.meta or (_changes(node) and node.args[0] in outside):
            return None
    (results,) = (node.args[0] for node in program.nodes if node.op == "output")
    outputs = [node.meta.get("val") if isinstance(node, fx.Node) else node for node in results]
    if not all(isinstance(output, torch.Tensor) for output in outputs):
        return None
    places = [output.untyped_storage()._cdata for output in outputs]
    taken = {
        value.untyped_storage()._cdata
        for node in outside
        if isinstance(value := node.meta.get("val"), torch.Tensor)
    }
    return outputs if len({*places} - taken) == len(outputs) else None


def _changes(node: fx.Node) -> bool:
    """Whether a node changes an argument in place, which is its first then."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
