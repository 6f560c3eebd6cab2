"""Puts ONNX Runtime's MultiHeadAttention in the place of each attention of a vision tower."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocketvlm_export.onnx_passes.attention import Attention, attentions, joined_heads
from pocketvlm_export.onnx_passes.block_int4 import MICROSOFT
from pocketvlm_export.onnx_passes.weights import replace_node


class MultiHeadAttention(ir.passes.InPlacePass):
    """Fuse attention whose queries, keys and values are heads of projections, without mask or
    cache."""

    def requires(self, model: ir.Model) -> None:
        """The graph has attention as it is traced; one whose heads cannot be counted would be left
        as it is."""
        if not any(_fits(attention) for attention in attentions(model.graph)):
            raise ir.passes.PreconditionError("the graph has no attention that can be fused")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse."""
        fused = [attention for attention in attentions(model.graph) if _fits(attention)]
        for attention in fused:
            inputs = [
                joined_heads(part) for part in (attention.query, attention.key, attention.value)
            ]
            attributes = {"num_heads": _heads(attention), "scale": attention.scale}
            node = ir.node("MultiHeadAttention", inputs, attributes, domain=MICROSOFT)
            replace_node(model.graph, attention.last, [node])
        model.opset_imports[MICROSOFT] = 1
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(fused))

    def ensures(self, model: ir.Model) -> None:
        """None is left."""
        if any(_fits(attention) for attention in attentions(model.graph)):
            raise ir.passes.PostconditionError("attention is left that could be fused")


def _heads(attention: Attention) -> int:
    assert attention.query.shape is not None
    size = attention.query.shape[1]
    return size if isinstance(size, int) else 0


def _fits(attention: Attention) -> bool:
    parts = (attention.query, attention.key, attention.value)
    return (
        attention.bias is None
        and all(joined_heads(part) is not None for part in parts)
        and _heads(attention) > 0
    )
