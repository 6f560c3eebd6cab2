"""Names the nodes that select visual tokens, so that a profile of the graph has the cost
of selection."""

from collections.abc import Collection, Iterable

import onnx_ir as ir

from pocketvlm.artifact.metadata import SELECTION

_KEPT = ("kept_indices", "kept_scores")
_FEATURES = "image_features"


class NameSelection(ir.passes.InPlacePass):
    """Prefix the names of selecting nodes with `SELECTION`; graphs without kept_indices stay as
    they are.

    Selecting is what the features would be computed without: everything that leads to the kept
    tokens and to nothing else, and from there what fetches the kept rows. ONNX Runtime keeps the
    names, through its own fusions too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename."""
        outputs = {value.name: value for value in model.graph.outputs}
        if not {*_KEPT, _FEATURES} <= outputs.keys():
            return ir.passes.PassResult(model, modified=False)
        kept = outputs["kept_indices"]
        tower = _leading_to([outputs[_FEATURES]], stop=[kept])
        fetching = _fetching(kept)
        selecting = (_leading_to([outputs[name] for name in _KEPT]) - tower) | fetching
        for node in model.graph:
            if node in selecting and not str(node.name).startswith(SELECTION):
                node.name = f"{SELECTION}{node.name}"
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """The node that yields the kept tokens is named as one that selects, and names are still
        unique."""
        names = [node.name for node in model.graph]
        if len(set(names)) != len(names):
            raise ir.passes.PostconditionError("two nodes have the same name")
        for value in model.graph.outputs:
            maker = value.producer()
            if (
                value.name in _KEPT
                and maker is not None
                and not str(maker.name).startswith(SELECTION)
            ):
                raise ir.passes.PostconditionError(
                    f"{value.name} comes from {maker.name}, which is not named"
                )


def _leading_to(values: Iterable[ir.Value], stop: Collection[ir.Value] = ()) -> set[ir.Node]:
    """Every node that one of ``values`` is computed from, not looking behind those of ``stop``."""
    nodes: set[ir.Node] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or node in nodes or value in stop:
            continue
        nodes.add(node)
        pending += [source for source in node.inputs if source is not None]
    return nodes


def _fetching(kept: ir.Value) -> set[ir.Node]:
    """The nodes from the kept indices to the first that gathers rows by them, those included.

    What looks kept tokens up in a constant table of floats, as the angles of their places, leads to
    numbers of which the tower computes on: there the way ends too.
    """
    nodes: set[ir.Node] = set()
    pending = [kept]
    while pending:
        for node, _ in pending.pop().uses():
            if node not in nodes:
                nodes.add(node)
                ends = _gathers_rows(node) or node.outputs[0].dtype == ir.DataType.FLOAT
                pending += [] if ends else list(node.outputs)
    return nodes


def _gathers_rows(node: ir.Node) -> bool:
    """Whether it fetches what was computed, not rows of a constant table."""
    source = node.inputs[0] if node.inputs else None
    return node.op_type.startswith("Gather") and source is not None and source.const_value is None
