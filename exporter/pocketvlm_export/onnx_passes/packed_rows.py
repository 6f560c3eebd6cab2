"""Knows how rows of a batch that are padded on the left are read without a mask: each row's own
tokens first, its padding behind them."""

import numpy as np
import onnx_ir as ir

from pocketvlm_export.onnx_passes.attention import constant
from pocketvlm_export.onnx_passes.tied_head import LOGITS

EMBEDS, MASK = "inputs_embeds", "attention_mask"
_TO_THE_END = np.iinfo(np.int64).max


def is_padded(graph: ir.Graph) -> bool:
    """Whether rows may be padded at all: whether the graph has a mask of them."""
    return _input(graph, MASK) is not None


def pack_rows(graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Let the layers read r tokens of each row and then its padding, and the logits be of token r.

    attention_mask (B, past + S) is 0 at the beginning of a row where that is padding. Row b has n_b
    tokens in all, of which the last r_b = min(n_b, S) are of this run. Token i of the packed row is
    token (i - r_b) mod S of the given one. Without padding that is i, and in decoding too. What the
    operator then needs is the number of each row's tokens.

    Returns:
        int32 (B,) of n_b less one, and past + S as an int32 scalar.

    Raises:
        PreconditionError: the logits are not those of the last token alone.
    """
    last_token = _last_token(graph)
    embeds, mask = _input(graph, EMBEDS), _input(graph, MASK)
    assert embeds is not None
    assert mask is not None
    nodes = _Nodes()
    count = nodes.add("ReduceSum", [mask, constant(graph, "[1]", [1])], keepdims=0)
    narrow = nodes.add("Cast", [count], to=ir.DataType.INT32)
    before = nodes.add("Sub", [narrow, constant(graph, "int32 [1]", [1], np.int32)])
    length = nodes.add("Shape", [mask], start=1, end=2)
    total = nodes.add("Squeeze", [nodes.add("Cast", [length], to=ir.DataType.INT32)])

    tokens = nodes.add("Shape", [embeds], start=1, end=2)
    own = nodes.add("Min", [count, tokens])
    own = nodes.add("Unsqueeze", [own, constant(graph, "[1, 2]", [1, 2])])  # (B, 1, 1)
    bounds = (constant(graph, "0", 0), nodes.add("Squeeze", [tokens]), constant(graph, "1", 1))
    each = nodes.add("Range", [*bounds])
    each = nodes.add("Unsqueeze", [each, constant(graph, "[1]", [1])])  # (S, 1)
    order = nodes.add("Mod", [nodes.add("Sub", [each, own]), tokens])  # (B, S, 1)
    for value in _by_token(graph, embeds):
        _replace_where_read(value, nodes.add("GatherND", [value, order], batch_dims=1))
    last = nodes.add("Sub", [own, constant(graph, "1", 1)])
    graph.insert_before(graph[0], nodes.made)

    _reorder_rotations(graph, order)
    hidden = last_token.inputs[0]
    assert hidden is not None
    picked = ir.node("GatherND", [hidden, last], {"batch_dims": 1})
    old, new = last_token.outputs[0], picked.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(last_token, picked)
    old.replace_all_uses_with(new)
    return before, total


class _Nodes:
    """New nodes in the order in which they are made."""

    def __init__(self) -> None:
        self.made: list[ir.Node] = []

    def add(self, kind: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        """Make a node of one output; returns the output."""
        self.made.append(ir.node(kind, inputs, attributes))
        return self.made[-1].outputs[0]


def _input(graph: ir.Graph, name: str) -> ir.Value | None:
    return next((value for value in graph.inputs if value.name == name), None)


def _by_token(graph: ir.Graph, embeds: ir.Value) -> list[ir.Value]:
    """The inputs that have a row of features for each token: embeddings, and further features."""
    return [value for value in graph.inputs if value.shape == embeds.shape]


def _replace_where_read(value: ir.Value, packed: ir.Value) -> None:
    """Let what reads ``value`` read ``packed``, except for nodes that make it or ask its shape."""
    packed.shape, packed.type = value.shape, value.type
    for node, index in tuple(value.uses()):
        if node is not packed.producer() and node.op_type != "Shape":
            node.replace_input_with(index, packed)


def _reorder_rotations(graph: ir.Graph, order: ir.Value) -> None:
    """Let every packed token be rotated by its own angles: positions (B, S) are numbers in a table
    of the tokens as they are given."""
    packed: dict[ir.Value, ir.Value] = {}
    for node in tuple(graph):
        positions = node.inputs[1] if node.op_type == "RotaryEmbedding" else None
        if positions is None:
            continue
        if positions not in packed:
            gathered = ir.node("GatherND", [positions, order], {"batch_dims": 1})
            graph.insert_before(node, gathered)
            packed[positions] = gathered.outputs[0]
        node.replace_input_with(1, packed[positions])


def _last_token(graph: ir.Graph) -> ir.Node:
    """The node that takes the last token of (B, S, hidden) for the logits."""
    value = next(each for each in graph.outputs if each.name == LOGITS)
    node = value.producer()
    while node is not None and node.inputs:
        if node.op_type == "Slice" and node.domain == "":
            bounds = [ir.convenience.get_const_tensor(each) for each in node.inputs[1:4]]
            numbers = [None if each is None else each.numpy().tolist() for each in bounds]
            if numbers == [[-1], [_TO_THE_END], [1]]:
                return node
            break
        first = node.inputs[0]
        node = first.producer() if first is not None else None
    raise ir.passes.PreconditionError("the logits are not those of the last token alone")
