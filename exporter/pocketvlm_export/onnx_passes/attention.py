"""Knows the shape that attention has in a traced graph, so that passes can put one operator in its
place."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

HEADS_FIRST = [0, 2, 1, 3]  # (batch, tokens, heads, d) to (batch, heads, tokens, d), and back
_KEYS_LAST = [0, 1, 3, 2]
_BOTH = [0, 2, 3, 1]  # one after the other, as the optimizer merges them


@dataclass(frozen=True)
class Attention:
    """softmax(query key^T * scale + bias) value, where before the bias is added products p may be
    softcap * tanh(p / softcap).

    Attributes:
        query, key, value: (batch, heads, tokens, d) each; keys and values are already repeated for
            their query heads. A key may also be (batch, tokens, heads, d), see ``tokens_first``.
        bias: broadcasts against (batch, heads, queries, keys), None where nothing is added.
        scale: what the products are multiplied by.
        output: (batch, queries, heads * d), the heads joined.
        last: the node that gives ``output``.
        tokens_first: whether ``key`` is (batch, tokens, heads, d).
        softcap: what bounds the products, 0 where nothing does.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    bias: ir.Value | None
    scale: float
    output: ir.Value
    last: ir.Node
    tokens_first: bool = False
    softcap: float = 0.0


def attentions(graph: ir.Graph) -> Iterator[Attention]:
    """Every attention of ``graph`` as transformers' eager attention is traced, in order."""
    for node in graph:
        if node.op_type == "Softmax" and (attention := _around(node)) is not None:
            yield attention


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes ``value``, if it is of this type."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None


def turned(value: ir.Value | None, order: list[int]) -> ir.Value | None:
    """What ``value`` is the transpose of, in this order of axes."""
    node = made_by(value, "Transpose")
    attribute = node.attributes.get("perm") if node is not None else None
    return (
        node.inputs[0]
        if node is not None and attribute and list(attribute.as_ints()) == order
        else None
    )


def joined_heads(value: ir.Value) -> ir.Value | None:
    """(batch, tokens, heads * d) of which ``value``, one of an `Attention`, is a view."""
    split = made_by(turned(value, HEADS_FIRST) or value, "Reshape")
    source = split.inputs[0] if split is not None else None
    return (
        source
        if source is not None and source.shape is not None and len(source.shape) == 3
        else None
    )


def join_heads(
    graph: ir.Graph, before: ir.Node, heads: ir.Value, *, tokens_first: bool = False
) -> ir.Value:
    """(batch, heads, tokens, d), with ``tokens_first`` (batch, tokens, heads, d), -> (batch,
    tokens, heads * d): what it is a view of, or a view by new nodes."""
    if (joined := joined_heads(heads)) is not None:
        return joined
    split = heads if tokens_first else turned(heads, HEADS_FIRST)
    if split is None:
        back = ir.node("Transpose", [heads], {"perm": HEADS_FIRST})
        graph.insert_before(before, back)
        split = back.outputs[0]
    reshaped = ir.node("Reshape", [split, constant(graph, "[0, 0, -1]", [0, 0, -1])])
    graph.insert_before(before, reshaped)
    return reshaped.outputs[0]


def split_heads(
    graph: ir.Graph, before: ir.Node, joined: ir.Value, heads: int, size: int
) -> ir.Value:
    """(batch, tokens, heads * d) -> (batch, heads, tokens, d), by new nodes."""
    shape = [0, 0, heads, size]
    reshaped = ir.node("Reshape", [joined, constant(graph, str(shape), shape)])
    front = ir.node("Transpose", [reshaped.outputs[0]], {"perm": HEADS_FIRST})
    graph.insert_before(before, [reshaped, front])
    return front.outputs[0]


def constant(graph: ir.Graph, name: str, value: Any, dtype: type = np.int64) -> ir.Value:
    """An initializer for fused nodes, made once."""
    name = f"fused.{name}"
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(value, dtype=dtype), name=name)
        graph.register_initializer(
            ir.Value(
                name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        )
    return graph.initializers[name]


def number(value: ir.Value | None) -> float | None:
    """The value of a constant scalar."""
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    return float(constant.numpy().item()) if constant is not None and constant.size == 1 else None


def _around(softmax: ir.Node) -> Attention | None:
    scores, bias = softmax.inputs[0], None
    if (added := made_by(scores, "Add")) is not None:
        scores, bias = added.inputs
    scores, softcap = uncapped(scores)
    scaled = made_by(scores, "Mul")
    scale = number(scaled.inputs[1]) if scaled is not None else None
    product = made_by(scaled.inputs[0], "MatMul") if scaled is not None else None
    mixed = only_reader(softmax.outputs[0], "MatMul")
    turned_back = only_reader(mixed.outputs[0], "Transpose") if mixed is not None else None
    last = only_reader(turned_back.outputs[0], "Reshape") if turned_back is not None else None
    if scale is None or product is None or mixed is None or last is None:
        return None
    query, value = product.inputs[0], mixed.inputs[1]
    key = turned(product.inputs[1], _KEYS_LAST)
    if tokens_first := key is None:
        key = turned(product.inputs[1], _BOTH)
    if query is None or key is None or value is None or turned(last.inputs[0], HEADS_FIRST) is None:
        return None
    return Attention(query, key, value, bias, scale, last.outputs[0], last, tokens_first, softcap)


def uncapped(scores: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Of softcap * tanh(p / softcap) p and the softcap; of anything else itself and 0."""
    widened = made_by(scores, "Mul")
    bounded = made_by(widened.inputs[0], "Tanh") if widened is not None else None
    narrowed = made_by(bounded.inputs[0], "Div") if bounded is not None else None
    if widened is None or narrowed is None:
        return scores, 0.0
    softcap = number(widened.inputs[1])
    if softcap is None or softcap <= 0 or softcap != number(narrowed.inputs[1]):
        return scores, 0.0
    return narrowed.inputs[0], softcap


def only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node that alone reads ``value``, as its first input, if it is of this type."""
    uses = value.uses()
    node = uses[0].node if len(uses) == 1 and uses[0].idx == 0 else None
    return node if node is not None and node.op_type == op_type else None
