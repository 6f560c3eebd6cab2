"""Multiplies weights in integers by activations whose ranges are known beforehand: the
`int8_static` precision."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from pocketvlm_export.onnx_passes.dynamic_int8 import stored_columns
from pocketvlm_export.onnx_passes.weights import remove_unread, weight_products

Ranges = Mapping[str, tuple[float, float]]  # least and largest value, by the name of an activation

_LEVELS = 255  # above 0, of an unsigned byte


class StaticInt8(ir.passes.InPlacePass):
    """Put QuantizeLinear and DequantizeLinear before each MatMul by a weight, on both sides.
    Weights are signed and symmetric, with one scale per column; activations are unsigned, with one
    scale and zero point per tensor.

    This is the form that several engines multiply in integers. ONNX Runtime's own provider makes
    MatMulIntegerToFloat of it as it opens a graph, and OpenVINO's its own product. The product's
    result, what is added to it, norms and attention stay in float32.

    Weights are those of `DynamicInt8`, computed when they are written. Activations are unsigned,
    since signed ones have no fast path on x86.
    """

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges

    def requires(self, model: ir.Model) -> None:
        """The range of every activation that is to be quantized is known."""
        if missing := [name for name in activations(model.graph) if name not in self.ranges]:
            raise ir.passes.PreconditionError(
                f"{len(missing)} activations have no range, {missing[0]} among them"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert; weights are computed when they are written, one at a time."""
        graph = model.graph
        products, rounded = list(weight_products(graph)), dict[ir.Value, ir.Value]()
        for number, (node, weight) in enumerate(products):
            source = node.inputs[0]
            assert source is not None
            if source not in rounded:
                rounded[source] = _round_before(graph, node, source, self.ranges[str(source.name)])
            node.replace_input_with(0, rounded[source])
            stored = stored_columns(graph, weight, number)
            columns = ir.node("DequantizeLinear", stored, {"axis": 1})
            columns.outputs[0].shape, columns.outputs[0].type = weight.shape, weight.type
            graph.insert_before(node, columns)
            node.replace_input_with(1, columns.outputs[0])
        remove_unread(graph, [weight for _, weight in products])
        return ir.passes.PassResult(model, modified=bool(products))

    def ensures(self, model: ir.Model) -> None:
        """No weight is still multiplied as it was."""
        if left := list(weight_products(model.graph)):
            raise ir.passes.PostconditionError(f"{len(left)} weights are still float32")


class WatchRanges(ir.passes.InPlacePass):
    """Let a graph give, in the place of its outputs, the least and the largest value of each
    activation that a weight multiplies: see `watched`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the reductions, and leave nothing else to compute."""
        graph, values = model.graph, activations(model.graph)
        graph.outputs.clear()
        for name, value in values.items():
            for operator, output in zip(("ReduceMin", "ReduceMax"), watched(name), strict=True):
                node = ir.node(operator, [value], {"keepdims": 0})
                node.outputs[0].name = output
                node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
                node.outputs[0].shape = ir.Shape([])
                graph.append(node)
                graph.outputs.append(node.outputs[0])
        return ir.passes.PassResult(model, modified=bool(values))


def watched(name: str) -> tuple[str, str]:
    """Return the outputs of a watched graph that have the least and the largest value of an
    activation."""
    return f"{name}.least", f"{name}.largest"


def activations(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return what weights multiply, by name."""
    sources = (node.inputs[0] for node, _ in weight_products(graph))
    return {str(source.name): source for source in sources if source is not None}


def scale_of(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Return scale and zero point of unsigned bytes for values from ``low`` to ``high``.

    scale = (high - low) / 255 and zero = round(-low / scale), with 0 between ``low`` and ``high``,
    so that it is exact: as ONNX defines DynamicQuantizeLinear.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _LEVELS)
    if scale < np.finfo(np.float32).tiny:
        return np.float32(1.0), np.uint8(0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))


def _round_before(
    graph: ir.Graph, node: ir.Node, source: ir.Value, limits: tuple[float, float]
) -> ir.Value:
    """An activation rounded to a byte and back, by new nodes before ``node``."""
    parameters = []
    for suffix, value in zip(("scale", "zero"), scale_of(*limits), strict=True):
        tensor = ir.tensor(np.asarray(value), name=f"{source.name}.{suffix}")
        parameters.append(
            ir.Value(
                name=tensor.name,
                shape=tensor.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
        )
        graph.register_initializer(parameters[-1])
    quantize = ir.node("QuantizeLinear", [source, *parameters])
    restore = ir.node("DequantizeLinear", [quantize.outputs[0], *parameters])
    for each, suffix in ((quantize, "uint8"), (restore, "rounded")):
        each.outputs[0].name, each.outputs[0].shape = f"{source.name}.{suffix}", source.shape
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    restore.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, [quantize, restore])
    return restore.outputs[0]
