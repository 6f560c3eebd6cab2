"""Puts ONNX Runtime's GroupQueryAttention in the place of each attention of a decoder, with its
cache."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocketvlm_export.onnx_passes.attention import (
    Attention,
    attentions,
    constant,
    join_heads,
    made_by,
)
from pocketvlm_export.onnx_passes.block_int4 import MICROSOFT
from pocketvlm_export.onnx_passes.packed_rows import is_padded, pack_rows

# The first version of ONNX Runtime whose operator has ``causal``; all before it, 1.22 to 1.29 were
# tried, refuse the graph.
TWO_WAY_RUNTIME = ">=1.30"


@dataclass(frozen=True)
class _Update:
    """One half of a layer's cache: ``present`` (batch, kv_heads, past + tokens, d) is ``past`` and
    then ``new``."""

    past: ir.Value
    new: ir.Value
    present: ir.Value


class GroupQueryAttention(ir.passes.InPlacePass):
    """Fuse the repeating of key-value heads, the growing of the cache and attention itself, a node
    a layer.

    Where attention is ``full`` the operator is given the lengths of the rows and no mask: the
    arithmetic of the graph's own, (batch, 1, tokens, past + tokens), goes. Rows that are padded are
    packed, see `pack_rows`, and their caches are: a row's own tokens, then what nobody reads.

    Otherwise the operator takes the whole length for every row, from the bias, so that layers may
    have caches of two lengths. The graph's mask, with its padding and sliding window, goes in as
    that bias and decides. Rotary embeddings, and with them ``position_ids``, stay apart. ONNX
    Runtime refuses one case that the separate nodes allow: several tokens after a past for more
    than one row.
    """

    def __init__(self, *, causal: bool = True, full: bool = False) -> None:
        """The operator hides later tokens of its own accord, unless not ``causal``: for graphs
        whose mask shows some, which need ONNX Runtime `TWO_WAY_RUNTIME`. Attention is ``full``
        where every token sees all before it but padding, and nothing else reads the mask; rotations
        are fused by then."""
        super().__init__()
        self._own = {} if causal else {"causal": 0}
        self._full = causal and full

    def requires(self, model: ir.Model) -> None:
        """Every attention reads a cache and adds a mask."""
        fusable = [
            _updates(attention) is not None and attention.bias is not None
            for attention in attentions(model.graph)
        ]
        if not fusable or not all(fusable):
            raise ir.passes.PreconditionError(
                "the graph has attention that reads no cache, or no attention"
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse."""
        graph = model.graph
        fused = list(attentions(graph))
        packed = pack_rows(graph) if self._full and fused and is_padded(graph) else None
        lengths: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        for attention in fused:
            assert attention.bias is not None
            if attention.bias not in lengths:
                lengths[attention.bias] = packed or self._lengths(graph, attention)
            bias = None if self._full else attention.bias
            _fuse(graph, attention, lengths[attention.bias], bias, self._own)
        model.opset_imports[MICROSOFT] = 1
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(fused))

    def _lengths(self, graph: ir.Graph, attention: Attention) -> tuple[ir.Value, ir.Value]:
        """Nodes before an attention: int32 (batch,) of the total length less one, and the total
        length as a scalar."""
        updates = _updates(attention)
        assert updates is not None
        assert attention.bias is not None
        past = updates[0].past
        batch = ir.node("Shape", [past], {"start": 0, "end": 1})
        if self._full:
            new = join_heads(graph, attention.last, attention.query)
            sizes = [
                ir.node("Shape", [past], {"start": 2, "end": 3}),
                ir.node("Shape", [new], {"start": 1, "end": 2}),
            ]
            total = ir.node("Add", [size.outputs[0] for size in sizes])
        else:
            sizes = []
            total = ir.node("Shape", [attention.bias], {"start": 3, "end": 4})
        narrow = ir.node("Cast", [total.outputs[0]], {"to": ir.DataType.INT32})
        scalar = ir.node("Squeeze", [narrow.outputs[0]])
        before = ir.node("Sub", [narrow.outputs[0], constant(graph, "int32 [1]", [1], np.int32)])
        rows = ir.node("Expand", [before.outputs[0], batch.outputs[0]])
        graph.insert_before(attention.last, [batch, *sizes, total, narrow, scalar, before, rows])
        return rows.outputs[0], scalar.outputs[0]

    def ensures(self, model: ir.Model) -> None:
        """Every output of the cache is an attention's."""
        for value in model.graph.outputs:
            maker = value.producer()
            if str(value.name).startswith("present.") and (
                maker is None or maker.op_type != "GroupQueryAttention"
            ):
                raise ir.passes.PostconditionError(f"{value.name} is not made by a fused attention")


def _fuse(
    graph: ir.Graph,
    attention: Attention,
    lengths: tuple[ir.Value, ir.Value],
    bias: ir.Value | None,
    own: Mapping[str, int],
) -> None:
    """``bias`` is what the operator is given of the mask, ``own`` are attributes of this graph's
    operators."""
    updates = _updates(attention)
    assert updates is not None
    keys, values = updates
    inputs = [
        join_heads(graph, attention.last, part) for part in (attention.query, keys.new, values.new)
    ]
    attributes = {
        "num_heads": _size(attention.query, 1),
        "kv_num_heads": _size(keys.past, 1),
        "scale": attention.scale,
        **({"softcap": attention.softcap} if attention.softcap else {}),
        **own,
    }
    node = ir.node(
        "GroupQueryAttention",
        [*inputs, keys.past, values.past, *lengths, *_last_inputs(bias)],
        attributes,
        domain=MICROSOFT,
        num_outputs=3,
    )
    graph.insert_before(attention.last, node)
    olds = (attention.output, keys.present, values.present)
    for old, new in zip(olds, node.outputs, strict=True):
        new.shape, new.type = old.shape, old.type
        name, is_output = old.name, old.is_graph_output()
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if is_output:
            old.name, new.name = f"{name}.unfused", name


def _last_inputs(bias: ir.Value | None) -> list[ir.Value | None]:
    """The operator's inputs behind the lengths."""
    return [] if bias is None else [None, None, None, bias]


def _updates(attention: Attention) -> tuple[_Update, _Update] | None:
    keys, values = _update(attention.key), _update(attention.value)
    return (keys, values) if keys is not None and values is not None else None


def _update(states: ir.Value) -> _Update | None:
    """The growing of a cache behind keys or values, which may be repeated for groups of query heads
    since."""
    repeated = made_by(states, "Reshape")
    expanded = made_by(repeated.inputs[0], "Expand") if repeated is not None else None
    widened = made_by(expanded.inputs[0], "Unsqueeze") if expanded is not None else None
    present = widened.inputs[0] if widened is not None else states
    concat = made_by(present, "Concat")
    if concat is None or present is None or len(concat.inputs) != 2:
        return None
    past, new = concat.inputs
    if past is None or new is None or not past.is_graph_input() or not present.is_graph_output():
        return None
    return _Update(past, new, present)


def _size(value: ir.Value, axis: int) -> int:
    size = value.shape[axis] if value.shape is not None else None
    if not isinstance(size, int):
        raise ir.passes.PreconditionError(f"{value.name} has no fixed size on axis {axis}")
    return size
