"""Stores weights as float16 and leaves the arithmetic in float32: the `fp16` precision."""

import numpy as np
import onnx_ir as ir

_SMALLEST = 1024  # elements; norms and biases below this save nothing worth a node


class HalfWeights(ir.passes.InPlacePass):
    """Replace each large float32 weight by a float16 one and a Cast back to float32.

    ONNX Runtime folds the Cast when it loads the graph. For a table whose rows are looked up it
    comes after the look-up and cannot be folded: the table stays float16 in memory. CPUs have next
    to no float16 arithmetic: a graph whose activations are float16 too runs slower there than
    float32, and its top-k can pick other tokens. For a checkpoint published in float16 this loses
    nothing at all.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert; the values are computed when they are written, a weight at a time."""
        converted = 0
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALLEST:
                continue
            half = _half(value, tensor)
            model.graph.initializers[str(half.name)] = half
            for gather in _lookups(value):
                _cast_rows(model.graph, gather, half)
            if value.uses():
                cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
                cast.outputs[0].shape, cast.outputs[0].type = (
                    value.shape,
                    ir.TensorType(ir.DataType.FLOAT),
                )
                cast.outputs[0].name = f"{value.name}.fp32"
                model.graph.insert_before(model.graph[0], cast)
                value.replace_all_uses_with(cast.outputs[0])
            model.graph.initializers.pop(str(value.name))
            converted += 1
        return ir.passes.PassResult(model, modified=converted > 0)

    def ensures(self, model: ir.Model) -> None:
        """Inputs and outputs keep their types."""
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.dtype == ir.DataType.FLOAT16:
                raise ir.passes.PostconditionError(f"{value.name} became float16")


def _lookups(value: ir.Value) -> list[ir.Node]:
    return [node for node, index in value.uses() if node.op_type == "Gather" and index == 0]


def _cast_rows(graph: ir.Graph, gather: ir.Node, half: ir.Value) -> None:
    """Look rows up in ``half`` instead and cast those; the result keeps its name."""
    rows = ir.node("Gather", [half, gather.inputs[1]], gather.attributes)
    cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
    rows.outputs[0].shape, rows.outputs[0].type = (
        gather.outputs[0].shape,
        ir.TensorType(ir.DataType.FLOAT16),
    )
    rows.outputs[0].name = f"{gather.outputs[0].name}.fp16"
    ir.convenience.replace_nodes_and_values(
        graph, gather, [gather], [rows, cast], gather.outputs, cast.outputs
    )


def _half(value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    name = f"{value.name}.fp16"

    def evaluate() -> ir.TensorProtocol:
        limit = np.finfo(np.float16).max  # a bfloat16 checkpoint may hold more than float16 can
        return ir.tensor(np.clip(tensor.numpy(), -limit, limit).astype(np.float16), name=name)

    lazy = ir.LazyTensor(evaluate, dtype=ir.DataType.FLOAT16, shape=tensor.shape, name=name)
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=lazy
    )
