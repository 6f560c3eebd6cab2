"""Unrolls picks, which are traced as one node, into the nodes of each."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from pocketvlm_export.onnx_passes.attention import constant
from pocketvlm_export.onnx_passes.weights import replace_node
from pocketvlm_export.pruning.cdpruner import EPS
from pocketvlm_export.pruning.picks import (
    COUNT,
    DOMAIN,
    FARTHEST_FIRST,
    GREEDY_MAP,
    WIDEST_COVER,
)


class UnrollPicks(ir.passes.InPlacePass):
    """Replace each node of `pruning.picks` by what the loop of its kind does, pick by pick: see
    `pruning.greedy` and `pruning.cdpruner`, whose operations these are, in their order."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Unroll."""
        nodes = [node for node in model.graph if node.domain == DOMAIN]
        for node in nodes:
            inputs = [value for value in node.inputs if value is not None]
            count = node.attributes[COUNT].as_int()
            steps = _Steps(model.graph)
            picks = _LOOPS[node.op_type](steps, inputs, count)
            joined = steps.add("Concat", picks, axis=2)
            steps.add("Squeeze", [joined, steps.constant([1])])
            replace_node(model.graph, node, steps.nodes)
        model.graph.opset_imports.pop(DOMAIN, None)
        common.RemoveUnusedNodesPass()(model)  # of one pick nothing is read but the first values
        return ir.passes.PassResult(model, modified=bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        """No node of that domain is left."""
        if any(node.domain == DOMAIN for node in model.graph):
            raise ir.passes.PostconditionError("picks are left that no runtime can make")


class _Steps:
    """The nodes of a run of picks, as they are made."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes: list[ir.Node] = []

    def add(
        self, kind: str, inputs: Sequence[ir.Value], **attributes: int | Sequence[int]
    ) -> ir.Value:
        """Append a node and return its only output."""
        self.nodes.append(ir.node(kind, inputs, attributes))
        return self.nodes[-1].outputs[0]

    def constant(self, value: float | Sequence[int]) -> ir.Value:
        """Return a float32 number, or a list of int64."""
        dtype = np.float32 if isinstance(value, float) else np.int64
        return constant(self.graph, f"{np.dtype(dtype)} {value}", value, dtype)


def _farthest_first(steps: _Steps, inputs: Sequence[ir.Value], count: int) -> list[ir.Value]:
    value, distances, columns, *weights = inputs
    nearest: ir.Value | None = None
    picks: list[ir.Value] = []
    for _ in range(count):
        if picks:
            index = steps.add("Add", [picks[-1], columns])
            row = steps.add("GatherElements", [distances, index], axis=1)
            nearest = row if nearest is None else steps.add("Min", [nearest, row])
            value = steps.add("Mul", [nearest, *weights]) if weights else nearest
        picks.append(steps.add("ArgMax", [value], axis=2))
    return picks


def _widest_cover(steps: _Steps, inputs: Sequence[ir.Value], count: int) -> list[ir.Value]:
    alike, covered, columns, weights, limit, picked = inputs
    picks: list[ir.Value] = []
    for _ in range(count):
        if picks:
            index = steps.add("Add", [picks[-1], columns])
            row = steps.add("GatherElements", [alike, index], axis=1)
            covered = steps.add("Max", [covered, row])
            limit = steps.add("ScatterElements", [limit, picks[-1], picked], axis=1)
        more = steps.add("Relu", [steps.add("Sub", [alike, covered])])
        gains = steps.add("Mul", [steps.add("ReduceSum", [more, steps.constant([2])]), weights])
        picks.append(steps.add("ArgMax", [steps.add("Min", [gains, limit])], axis=1))
    return picks


def _greedy_map(steps: _Steps, inputs: Sequence[ir.Value], count: int) -> list[ir.Value]:
    kernel, gain, number, columns = inputs
    factor: ir.Value | None = None
    picks: list[ir.Value] = []
    for made in range(count):
        if picks:
            pick = picks[-1]
            row = steps.add("GatherElements", [kernel, steps.add("Add", [pick, columns])], axis=1)
            if factor is not None:
                rows = steps.add("Expand", [pick, steps.constant([1, made - 1, 1])])
                column = steps.add("GatherElements", [factor, rows], axis=2)
                column = steps.add("Transpose", [column], perm=(0, 2, 1))
                row = steps.add("Sub", [row, steps.add("MatMul", [column, factor])])
            left = steps.add("GatherElements", [gain, pick], axis=2)
            left = steps.add("Max", [left, steps.constant(0.0)])
            root = steps.add("Sqrt", [steps.add("Add", [left, steps.constant(EPS)])])
            row = steps.add("Div", [row, root])
            factor = row if factor is None else steps.add("Concat", [factor, row], axis=1)
            gain = steps.add("Sub", [gain, steps.add("Mul", [row, row])])
            here = steps.add("Equal", [number, pick])
            gain = steps.add("Where", [here, steps.constant(float("-inf")), gain])
        picks.append(steps.add("ArgMax", [gain], axis=2))
    return picks


_LOOPS: Mapping[str, Callable[[_Steps, Sequence[ir.Value], int], list[ir.Value]]] = {
    FARTHEST_FIRST: _farthest_first,
    WIDEST_COVER: _widest_cover,
    GREEDY_MAP: _greedy_map,
}
