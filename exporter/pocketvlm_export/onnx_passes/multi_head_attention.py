"""Puts ONNX Runtime's MultiHeadAttention in the place of each attention of a vision tower."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocketvlm_export.onnx_passes.attention import (
    HEADS_FIRST,
    Attention,
    attentions,
    join_heads,
    joined_heads,
    turned,
)
from pocketvlm_export.onnx_passes.block_int4 import MICROSOFT
from pocketvlm_export.onnx_passes.weights import replace_node


class MultiHeadAttention(ir.passes.InPlacePass):
    """Fuse attention whose queries, keys and values are heads of projections, turned by their
    positions or not, without mask or cache.

    The operator then holds no map of all tokens by all tokens. Without mask, bias and cache ONNX
    Runtime's kernel for CPUs computes it in blocks that fit its cache.
    """

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
                join_heads(model.graph, attention.last, part, tokens_first=tokens_first)
                for part, tokens_first in _parts(attention)
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
    return (
        attention.bias is None
        and not attention.softcap
        and all(_is_split(*part) for part in _parts(attention))
        and _heads(attention) > 0
    )


def _parts(attention: Attention) -> tuple[tuple[ir.Value, bool], ...]:
    """Queries, keys and values, each with whether its tokens come before its heads."""
    return (
        (attention.query, False),
        (attention.key, attention.tokens_first),
        (attention.value, False),
    )


def _is_split(heads: ir.Value, tokens_first: bool) -> bool:
    """Whether heads can be joined again without moving anything that was not moved before."""
    moved = tokens_first or turned(heads, HEADS_FIRST) is not None
    return moved or joined_heads(heads) is not None
