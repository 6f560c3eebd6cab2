"""Puts ONNX Runtime's RotaryEmbedding in the place of the rotation of queries and keys."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocketvlm_export.onnx_passes.attention import constant, join_heads, made_by, split_heads
from pocketvlm_export.onnx_passes.block_int4 import MICROSOFT


@dataclass(frozen=True)
class Rotation:
    """x * cos + rotate_half(x) * sin.

    Attributes:
        last: the node that gives the sum.
        x: (batch, heads, tokens, d).
        cos, sin: (batch, tokens, d), the second half of d as the first.
    """

    last: ir.Node
    x: ir.Value
    cos: ir.Value
    sin: ir.Value


class Rotary(ir.passes.InPlacePass):
    """Fuse rotations as transformers' models are traced, before heads are moved in front of tokens.

    Cosines and sines are still computed from ``position_ids``, however the model scales them. The
    operator looks them up by position: its table is those of the tokens in the run, and its
    positions are their numbers in it.
    """

    def requires(self, model: ir.Model) -> None:
        """The graph rotates something."""
        if not any(rotations(model.graph)):
            raise ir.passes.PreconditionError("the graph has no rotation that can be fused")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse."""
        graph = model.graph
        tables: dict[tuple[ir.Value, ir.Value], list[ir.Value]] = {}
        fused = list(rotations(graph))
        for rotation in fused:
            angles = (rotation.cos, rotation.sin)
            if angles not in tables:
                tables[angles] = _tables(graph, rotation)
            _fuse(graph, rotation, tables[angles])
        model.opset_imports[MICROSOFT] = 1
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(fused))

    def ensures(self, model: ir.Model) -> None:
        """Nothing is rotated by hand any more."""
        if any(node.op_type == "Neg" for node in model.graph):
            raise ir.passes.PostconditionError("a rotation is left that could be fused")


def rotations(graph: ir.Graph) -> Iterator[Rotation]:
    """Every rotation of heads that can be fused, in order."""
    for node in graph:
        if node.op_type == "Add" and (rotation := _at(node)) is not None:
            yield rotation


def _at(last: ir.Node) -> Rotation | None:
    straight, crossed = (made_by(value, "Mul") for value in last.inputs)
    turned_half = made_by(crossed.inputs[0], "Concat") if crossed is not None else None
    negated = made_by(turned_half.inputs[0], "Neg") if turned_half is not None else None
    if (
        straight is None
        or crossed is None
        or turned_half is None
        or negated is None
        or len(turned_half.inputs) != 2
    ):
        return None
    x, halves = (
        straight.inputs[0],
        [made_by(value, "Slice") for value in (negated.inputs[0], turned_half.inputs[1])],
    )
    angles = [made_by(node.inputs[1], "Unsqueeze") for node in (straight, crossed)]
    if x is None or None in halves or None in angles:
        return None
    if any(half is None or half.inputs[0] is not x for half in halves):
        return None
    cos, sin = (node.inputs[0] if node is not None else None for node in angles)
    if (
        cos is None
        or sin is None
        or cos.shape is None
        or x.shape is None
        or cos.shape[-1] != x.shape[-1]
    ):
        return None  # a part of each head alone is rotated
    return Rotation(last, x, cos, sin)


def _tables(graph: ir.Graph, rotation: Rotation) -> list[ir.Value]:
    """Nodes before the first use: positions int64 (batch, tokens), and cosines and sines (batch *
    tokens, d / 2)."""
    assert rotation.x.shape is not None
    half = int(rotation.x.shape[-1]) // 2
    parts = [_half_of(graph, angles, half) for angles in (rotation.cos, rotation.sin)]
    rows = [constant(graph, f"[-1, {half}]", [-1, half])]
    tables = [ir.node("Reshape", [part.outputs[0], *rows]) for part in parts]
    sizes = ir.node("Shape", [parts[0].outputs[0]], {"start": 0, "end": 2})
    count = ir.node("ReduceProd", [sizes.outputs[0]], {"keepdims": 0})
    numbers = ir.node("Range", [constant(graph, "0", 0), count.outputs[0], constant(graph, "1", 1)])
    positions = ir.node("Reshape", [numbers.outputs[0], sizes.outputs[0]])
    nodes = [*parts, *tables, sizes, count, numbers, positions]
    graph.insert_before(rotation.last, nodes)
    return [node.outputs[0] for node in (positions, *tables)]


def _half_of(graph: ir.Graph, angles: ir.Value, half: int) -> ir.Node:
    """A node that gives the first half of cosines or sines: it computes no more than that where
    they are those of numbers joined with themselves."""
    made = angles.producer()
    joined = made_by(made.inputs[0], "Concat") if made is not None and made.inputs else None
    if made is not None and made.op_type in {"Cos", "Sin"} and joined is not None:
        axis, numbers = joined.attributes["axis"].as_int(), joined.inputs
        last = axis in {-1, len(angles.shape or ()) - 1}
        if last and len(numbers) == 2 and numbers[0] is numbers[1]:
            return ir.node(made.op_type, [numbers[0]])
    bounds = [constant(graph, f"[{number}]", [number]) for number in (0, half, -1)]
    return ir.node("Slice", [angles, *bounds])


def _fuse(graph: ir.Graph, rotation: Rotation, tables: list[ir.Value]) -> None:
    joined, shape = join_heads(graph, rotation.last, rotation.x), rotation.x.shape
    assert shape is not None
    heads, size = int(shape[1]), int(shape[3])
    node = ir.node("RotaryEmbedding", [joined, *tables], {"num_heads": heads}, domain=MICROSOFT)
    node.outputs[0].shape = ir.Shape([shape[0], shape[2], heads * size])
    node.outputs[0].type = rotation.x.type
    graph.insert_before(rotation.last, node)
    split = split_heads(graph, rotation.last, node.outputs[0], heads, size)
    split.shape, split.type = rotation.last.outputs[0].shape, rotation.last.outputs[0].type
    rotation.last.outputs[0].replace_all_uses_with(split)
