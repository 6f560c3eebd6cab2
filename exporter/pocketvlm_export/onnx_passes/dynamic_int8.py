"""Stores weights as signed 8-bit integers, and multiplies in integers: the `int8` precision."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from pocketvlm_export import upstream
from pocketvlm_export.onnx_passes.attention import number as number_of
from pocketvlm_export.onnx_passes.attention import only_reader
from pocketvlm_export.onnx_passes.weights import (
    Spec,
    lazy_weights,
    remove_unread,
    replace_node,
    table_lookups,
    weight_products,
)

_COLUMNS = (
    4096  # quantized at once: what rounding takes in passing stays small beside a large weight
)


class DynamicInt8(ir.passes.InPlacePass):
    """Turn each MatMul by a weight into MatMulInteger: signed symmetric weights with one scale per
    column, and unsigned activations. A table whose rows the graph returns becomes integers with one
    scale per row.

    The nodes are those of ``onnxruntime.quantization.quantize_dynamic`` (QInt8, per channel,
    constant B only), which ONNX Runtime fuses at load; they are standard ONNX. That function itself
    takes whole models, twice in memory and once more on disk, and loops over columns in Python.
    Here a weight is quantized when it is written. Activations are unsigned, since signed ones have
    no fast path on x86. What reads the same activations shares their quantization.

    Rows are looked up as integers and scaled afterwards, by standard operators that every build of
    ONNX Runtime has. Other tables, such as those of positions, stay as they are: they are small.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert; the values are computed when they are written, a weight at a time."""
        graph = model.graph
        products, lookups = list(weight_products(graph)), list(_returned_rows(graph))
        activations: dict[ir.Value, Sequence[ir.Value]] = {}
        for number, (node, weight) in enumerate(products):
            source = node.inputs[0]
            assert source is not None
            if source not in activations:
                activations[source] = _quantize_before(graph, node, source)
            _multiply(graph, node, activations[source], stored_columns(graph, weight, number))
        for node, table in lookups:
            _look_up(graph, node, table)
        remove_unread(graph, [weight for _, weight in (*products, *lookups)])
        return ir.passes.PassResult(model, modified=bool(products or lookups))

    def ensures(self, model: ir.Model) -> None:
        """No weight that should be an integer is still multiplied or returned as it was."""
        if left := [*weight_products(model.graph), *_returned_rows(model.graph)]:
            raise ir.passes.PostconditionError(f"{len(left)} weights are still float32")


def quantize_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``weight`` float32 (inputs, outputs) as int8, with scale and zero point of each
    column, (outputs,).

    scale = max|w| / 127 and round(w / scale), as onnxruntime.quantization has it for symmetric
    weights: -128 is unused and the zero point 0.
    """
    low, high = upstream.int8_range()
    largest = np.maximum(weight.max(axis=0), -weight.min(axis=0)).astype(np.float64)
    scale = 2 * largest / (high - low)
    scale = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale).astype(np.float32)
    result = np.empty(weight.shape, dtype=np.int8)
    for start in range(0, weight.shape[1], _COLUMNS):
        part = np.s_[start : start + _COLUMNS]
        result[:, part] = upstream.quantize_int8(weight[:, part], scale[part])
    return result, scale, np.zeros(weight.shape[1], dtype=np.int8)


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``table`` float32 (rows, width) as int8, and the scale of each row, (rows, 1); as
    `quantize_columns` does it for the transpose."""
    rows, scale, _ = quantize_columns(table.T)
    return np.ascontiguousarray(rows.T), scale[:, None]


def _returned_rows(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Look-ups in a float32 table that are an output of the graph, times a number or not, with the
    table."""
    for node, table in table_lookups(graph):
        rows = node.outputs[0]
        scaled = only_reader(rows, "Mul")
        if scaled is not None and number_of(scaled.inputs[1]) is not None:
            rows = scaled.outputs[0]
        if rows.is_graph_output():
            yield node, table


def _look_up(graph: ir.Graph, node: ir.Node, table: ir.Value) -> None:
    tensor = table.const_value
    assert tensor is not None
    rows, width = (int(size) for size in tensor.shape)
    stored = lazy_weights(
        lambda: quantize_rows(tensor.numpy()),
        Spec(f"{table.name}.int8", ir.DataType.INT8, (rows, width)),
        Spec(f"{table.name}.scale", ir.DataType.FLOAT, (rows, 1)),
    )
    for value in stored:
        graph.register_initializer(value)
    integers, scales = (ir.node("Gather", [value, node.inputs[1]]) for value in stored)
    as_float = ir.node("Cast", [integers.outputs[0]], {"to": ir.DataType.FLOAT})
    scaled = ir.node("Mul", [as_float.outputs[0], scales.outputs[0]])
    replace_node(graph, node, [integers, scales, as_float, scaled])


def stored_columns(graph: ir.Graph, weight: ir.Value, number: int) -> list[ir.Value]:
    """Register the integer weight, the scales and the zero points of a float32 weight, for one node
    alone.

    If two nodes read a weight, each has its own initializers, whose bytes are stored once. On CPUs
    where ONNX Runtime makes weights unsigned as it opens a graph, release 1.31 fails on an
    initializer that is already unsigned.
    """
    tensor = weight.const_value
    assert tensor is not None
    inputs, outputs = (int(size) for size in tensor.shape)
    values = lazy_weights(
        lambda: quantize_columns(tensor.numpy()),
        Spec(f"{weight.name}.int8.{number}", ir.DataType.INT8, (inputs, outputs)),
        Spec(f"{weight.name}.scale.{number}", ir.DataType.FLOAT, (outputs,)),
        Spec(f"{weight.name}.zero.{number}", ir.DataType.INT8, (outputs,)),
    )
    for value in values:
        graph.register_initializer(value)
    return values


def _quantize_before(graph: ir.Graph, node: ir.Node, source: ir.Value) -> Sequence[ir.Value]:
    quantize = ir.node("DynamicQuantizeLinear", [source], num_outputs=3)
    for output, suffix in zip(quantize.outputs, ("uint8", "scale", "zero"), strict=True):
        output.name = f"{source.name}.{suffix}"
    graph.insert_before(node, quantize)
    return quantize.outputs


def _multiply(
    graph: ir.Graph, node: ir.Node, activation: Sequence[ir.Value], weight: Sequence[ir.Value]
) -> None:
    product = ir.node("MatMulInteger", [activation[0], weight[0], activation[2], weight[2]])
    as_float = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
    scales = ir.node("Mul", [activation[1], weight[1]])
    scaled = ir.node("Mul", [as_float.outputs[0], scales.outputs[0]])
    replace_node(graph, node, [product, as_float, scales, scaled])
