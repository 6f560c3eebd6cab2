"""Keeps a tied head in the embedding's layout, so that one table on disk serves both graphs."""

import numpy as np
import onnx_ir as ir

from pocketvlm_export.onnx_passes.attention import uncapped
from pocketvlm_export.onnx_passes.weights import (
    remove_unread,
    replace_node,
    transposed,
    weight_products,
)

LOGITS = "logits"


class TieHead(ir.passes.InPlacePass):
    """Replace MatMul(x, W) that makes the logits by Gemm(x, table, transB=1), where W (hidden,
    vocab) is table^T. Behind the product the logits may be softcapped.

    Prefill and decode take as long either way: ONNX Runtime packs the one as it packs the other.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Turn the head around; its values are transposed when they are written."""
        graph = model.graph
        node, weight = _head(graph)
        assert weight.shape is not None
        hidden, vocab = (int(size) for size in weight.shape)
        table = transposed(weight, (1, 0), f"{weight.name}.table")
        graph.initializers[str(table.name)] = table
        flat = ir.node("Reshape", [node.inputs[0], _sizes(graph, "head.rows", [-1, hidden])])
        product = ir.node("Gemm", [flat.outputs[0], table], {"transB": 1})
        shaped = ir.node(
            "Reshape", [product.outputs[0], _sizes(graph, "head.logits", [-1, 1, vocab])]
        )
        replace_node(graph, node, [flat, product, shaped])
        remove_unread(graph, [weight])
        return ir.passes.PassResult(model, modified=True)

    def requires(self, model: ir.Model) -> None:
        """The logits are a product with a weight, of one position a sequence."""
        _head(model.graph)

    def ensures(self, model: ir.Model) -> None:
        """No product with a weight makes the logits any more."""
        if _product(model.graph) is not None:
            raise ir.passes.PostconditionError("the head is still stored transposed")


class UntieHead(ir.passes.InPlacePass):
    """The other way round, for precisions that store products in their own form."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Undo `TieHead` where it was done."""
        graph = model.graph
        for node in [
            node for node in graph if node.op_type == "Gemm" and "transB" in node.attributes
        ]:
            flat, shaped = node.inputs[0].producer(), node.outputs[0].uses()[0].node
            table = node.inputs[1]
            assert flat is not None
            assert table is not None
            sizes = [size for size in (flat.inputs[1], shaped.inputs[1]) if size is not None]
            weight = transposed(table, (1, 0), str(table.name).removesuffix(".table"))
            graph.initializers[str(weight.name)] = weight
            product = ir.node("MatMul", [flat.inputs[0], weight])
            replace_node(graph, shaped, [product])
            graph.remove([node, flat], safe=True)
            remove_unread(graph, [table, *sizes])
        return ir.passes.PassResult(model, modified=True)


def _head(graph: ir.Graph) -> tuple[ir.Node, ir.Value]:
    if (product := _product(graph)) is not None:
        return product
    raise ir.passes.PreconditionError(f"{LOGITS} are not a product with a weight")


def _product(graph: ir.Graph) -> tuple[ir.Node, ir.Value] | None:
    """The product with a weight that the logits are, softcapped or not."""
    logits = next((value for value in graph.outputs if value.name == LOGITS), None)
    scores, _ = uncapped(logits)
    return next(
        ((node, weight) for node, weight in weight_products(graph) if node.outputs[0] is scores),
        None,
    )


def _sizes(graph: ir.Graph, name: str, sizes: list[int]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(np.array(sizes, dtype=np.int64), name=name))
    value.shape, value.type = ir.Shape([len(sizes)]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(value)
    return value
