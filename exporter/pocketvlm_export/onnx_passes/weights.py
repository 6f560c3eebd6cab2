"""Knows how a pass finds the weights of matrix products and puts others in their place, computed
when written."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir


class Spec(NamedTuple):
    """A weight to come: its name, element type and sizes."""

    name: str
    dtype: ir.DataType
    shape: Sequence[int]


def lazy_weights(compute: Callable[[], Sequence[np.ndarray]], *specs: Spec) -> list[ir.Value]:
    """Return initializers whose values ``compute`` gives together, an array for each of ``specs``.

    They are computed when the first is written and forgotten with the last, so that a graph's new
    weights are never in memory all at once.
    """
    computed: dict[int, np.ndarray] = {}

    def piece(number: int) -> Callable[[], ir.TensorProtocol]:
        def evaluate() -> ir.TensorProtocol:
            if number not in computed:
                computed.update(enumerate(compute()))
            return ir.tensor(computed.pop(number), name=specs[number].name)

        return evaluate

    values = []
    for number, (name, dtype, sizes) in enumerate(specs):
        shape = ir.Shape(list(sizes))
        tensor = ir.LazyTensor(piece(number), dtype=dtype, shape=shape, name=name)
        values.append(
            ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
        )
    return values


def transposed(weight: ir.Value, order: Sequence[int], name: str) -> ir.Value:
    """Return an initializer that holds ``weight`` with its axes in another order, computed when it
    is written."""
    source = weight.const_value
    assert source is not None
    shape = [int(source.shape[axis]) for axis in order]
    (value,) = lazy_weights(
        lambda: [np.ascontiguousarray(source.numpy().transpose(order))],
        Spec(name, source.dtype, shape),
    )
    return value


def weight_products(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """MatMuls by a float32 matrix of weights, with the matrix."""
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" and node.domain == "" else None
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        if weight.dtype != ir.DataType.FLOAT or weight.shape is None or len(weight.shape) != 2:
            continue
        yield node, weight


def table_lookups(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Gathers of rows of a float32 table of weights, with the table."""
    for node in graph:
        table = node.inputs[0] if node.op_type == "Gather" and node.domain == "" else None
        if table is None or not table.is_initializer() or table.const_value is None:
            continue
        if table.dtype == ir.DataType.FLOAT and table.shape is not None and len(table.shape) == 2:
            yield node, table


def replace_node(graph: ir.Graph, node: ir.Node, replacement: Sequence[ir.Node]) -> None:
    """Put nodes in the place of one; the last one's output takes its name."""
    outputs = replacement[-1].outputs
    for old, new in zip(node.outputs, outputs, strict=True):
        new.shape, new.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], replacement, node.outputs, outputs)


def remove_unread(graph: ir.Graph, weights: Sequence[ir.Value]) -> None:
    """Remove initializers that no node reads any more."""
    for weight in weights:
        if not weight.uses() and not weight.is_graph_output():
            graph.initializers.pop(str(weight.name), None)
