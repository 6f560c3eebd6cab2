"""Stores 4-bit weights with one scale per block, in ONNX Runtime's own operators: the `int4`
precisions."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pocketvlm_export import upstream
from pocketvlm_export.onnx_passes.weights import (
    Spec,
    lazy_weights,
    remove_unread,
    replace_node,
    table_lookups,
    weight_products,
)

MICROSOFT = "com.microsoft"
_INTEGER_ACTIVATIONS = (
    4  # accuracy_level: activations become int8 on the way, 1.4 times the speed of decoding
)


class BlockInt4(ir.passes.InPlacePass):
    """Turn each MatMul by a weight into MatMulNBits and each look-up in a table into
    GatherBlockQuantized.

    ``block`` inputs of one output share a scale; zero is always 8. A table that is both looked up
    and multiplied becomes the same bytes either way, so that two graphs can share them.
    """

    def __init__(self, block: int) -> None:
        self.block = block

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert; the values are computed when they are written, a weight at a time."""
        products, lookups = (
            list(weight_products(model.graph)),
            list(table_lookups(model.graph)),
        )
        stored = {
            weight: self._weight(model.graph, weight)
            for weight in dict.fromkeys(w for _, w in products)
        }
        tables = {
            table: self._table(model.graph, table) for table in dict.fromkeys(t for _, t in lookups)
        }
        for node, weight in products:
            replace_node(model.graph, node, [self._product(node, weight, stored[weight])])
        for node, table in lookups:
            replace_node(model.graph, node, [self._lookup(node, tables[table])])
        remove_unread(model.graph, [*stored, *tables])
        model.opset_imports[MICROSOFT] = 1
        return ir.passes.PassResult(model, modified=bool(products or lookups))

    def ensures(self, model: ir.Model) -> None:
        """No weight that should be in 4 bits is still multiplied or looked up in floating point."""
        if left := [*weight_products(model.graph), *table_lookups(model.graph)]:
            raise ir.passes.PostconditionError(f"{len(left)} weights are still float32")

    def _product(self, node: ir.Node, weight: ir.Value, stored: Sequence[ir.Value]) -> ir.Node:
        inputs, outputs = _sizes(weight)
        attributes = {
            "K": inputs,
            "N": outputs,
            "bits": 4,
            "block_size": self.block,
            "accuracy_level": _INTEGER_ACTIVATIONS,
        }
        return ir.node("MatMulNBits", [node.inputs[0], *stored], attributes, domain=MICROSOFT)

    def _lookup(self, node: ir.Node, stored: Sequence[ir.Value]) -> ir.Node:
        attributes = {"bits": 4, "block_size": self.block, "gather_axis": 0, "quantize_axis": 1}
        return ir.node(
            "GatherBlockQuantized",
            [stored[0], node.inputs[1], stored[1]],
            attributes,
            domain=MICROSOFT,
        )

    def _weight(self, graph: ir.Graph, weight: ir.Value) -> list[ir.Value]:
        """(inputs, outputs) float32 -> two values a byte, the lower first, (outputs, blocks, block
        / 2), and scales."""
        tensor, (inputs, outputs) = weight.const_value, _sizes(weight)
        assert tensor is not None
        blocks = -(-inputs // self.block)
        return _registered(
            graph,
            lazy_weights(
                lambda: quantize_blocks(tensor.numpy(), self.block),
                Spec(f"{weight.name}.int4", ir.DataType.UINT8, (outputs, blocks, self.block // 2)),
                Spec(f"{weight.name}.scale", ir.DataType.FLOAT, (outputs, blocks)),
            ),
        )

    def _table(self, graph: ir.Graph, table: ir.Value) -> list[ir.Value]:
        """(rows, width) float32 -> (rows, width / 2) and (rows, blocks): the bytes of `_weight` of
        its transpose."""
        tensor, (rows, width) = table.const_value, _sizes(table)
        assert tensor is not None

        def quantize() -> tuple[np.ndarray, np.ndarray]:
            packed, scale = quantize_blocks(tensor.numpy().T, self.block)
            return packed.reshape(rows, -1)[:, : width // 2], scale

        return _registered(
            graph,
            lazy_weights(
                quantize,
                Spec(f"{table.name}.int4", ir.DataType.UINT8, (rows, width // 2)),
                Spec(f"{table.name}.scale", ir.DataType.FLOAT, (rows, -(-width // self.block))),
            ),
        )


def quantize_blocks(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``weight`` float32 (inputs, outputs) as MatMulNBits reads it, and its scales,
    symmetric around 8: uint8 (outputs, blocks, block / 2) and float32 (outputs, blocks)."""
    inputs, outputs = weight.shape
    blocks = -(-inputs // block)
    padded = np.pad(
        weight, ((0, blocks * block - inputs), (0, 0))
    )  # a copy in any case: the kernel reads it in order
    packed = np.zeros((outputs, blocks, block // 2), dtype=np.uint8)
    scale = np.zeros((outputs, blocks), dtype=np.float32)
    zero = np.zeros((outputs, -(-blocks // 2)), dtype=np.uint8)
    upstream.quantize_4bit(packed, np.ascontiguousarray(padded), scale, zero, block, inputs)
    return packed, scale


def _registered(graph: ir.Graph, values: list[ir.Value]) -> list[ir.Value]:
    for value in values:
        graph.register_initializer(value)
    return values


def _sizes(weight: ir.Value) -> tuple[int, int]:
    assert weight.const_value is not None
    rows, columns = (int(size) for size in weight.const_value.shape)
    return rows, columns
