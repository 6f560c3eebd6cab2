"""What the exports of one test run share is what each of them would trace."""

import functools
import inspect
import sys
from dataclasses import dataclass
from types import FunctionType, SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from pocketvlm.artifact import metadata
from pocketvlm_export import graphs, pruning
from pocketvlm_export.graphs import trace
from pocketvlm_export.towers import attention
from support.traces import UNREAD, Traces, structure


class Tied(nn.Module):
    """A product and its transpose by one weight, a buffer, a constant and an attribute."""

    def __init__(self, seed=0, scale=2.0, shift=1.0, tied=True):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if tied:
            self.second.weight = self.first.weight
        self.register_buffer("shift", torch.full((4,), shift))
        self.scale = scale

    def forward(self, x):
        return self.second(self.first(x)) * self.scale + self.shift + torch.arange(4)


class TiedGraph:
    kind, input_names, output_names = "tied", ("x",), ("y",)
    dynamic_axes, output_axes = ({0: "batch_size"},), {"y": {0: "batch_size"}}

    def __init__(self, **options):
        self.module = Tied(**options).eval()

    def sample_inputs(self):
        return (torch.randn(2, 4),)


@pytest.fixture
def traces(tmp_path):
    return Traces(tmp_path, trace)


def test_other_weights_of_the_same_structure(traces):
    """Every value is the module's own, constants included, in a graph of the same nodes."""
    first = traces(TiedGraph(seed=0))
    graph = TiedGraph(seed=1)
    again, anew = traces(graph), trace(graph)
    assert traces.reused == 1
    for model in (first, again):
        assert list(model.graph.initializers) == list(anew.graph.initializers)
        assert [node.op_type for node in model.graph] == [node.op_type for node in anew.graph]
        assert [value.name for value in model.graph.inputs] == ["x"]
        assert [value.name for value in model.graph.outputs] == ["y"]
    assert again.metadata_props == anew.metadata_props
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ours, theirs = (
        ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": rows})[0] for model in (again, anew)
    )
    np.testing.assert_array_equal(ours, theirs)
    expected = graph.module(torch.from_numpy(rows)).detach().numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_weights_are_the_tensors_themselves(traces):
    """As after tracing: nothing is copied before a pass or a file wants it."""
    traces(TiedGraph())
    graph = TiedGraph(seed=1)
    bias = traces(graph).graph.initializers["first.bias"].const_value
    assert bias.raw.data_ptr() == graph.module.first.bias.data_ptr()


@pytest.mark.parametrize("options", [{"scale": 3.0}, {"shift": 2.0}, {"tied": False}])
def test_another_structure_is_another(options):
    assert structure(TiedGraph()) == structure(TiedGraph(seed=1))
    assert structure(TiedGraph(**options)) != structure(TiedGraph())


def test_sizes_of_an_axis_are_part_of_it():
    def axes(most):
        return ({0: 2 * torch.export.Dim("pairs", min=1, max=most)},)

    keys = []
    for most in (8, 8, 9):
        graph = TiedGraph()
        graph.dynamic_axes = axes(most)
        keys.append(structure(graph))
    assert keys[0] is not None
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("name", ["MAP_BYTES", "attend"])
def test_changed_code_is_another(monkeypatch, name):
    before = structure(TiedGraph())
    changed = {"MAP_BYTES": attention.MAP_BYTES + 1, "attend": lambda *given: given[0]}
    monkeypatch.setattr(attention, name, changed[name])
    assert structure(TiedGraph()) != before
    monkeypatch.undo()
    assert structure(TiedGraph()) == before


@dataclass(frozen=True)
class Facts:
    edge: int


def factor(edge=14, *, margin=1):
    return edge + margin


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (factor, lambda: FunctionType(factor.__code__, {}, "factor", (16,))),
        (functools.cache(lambda: 1), lambda: functools.cache(lambda: 2)),
        (functools.cached_property(lambda _: 1), lambda: functools.cached_property(lambda _: 2)),
        (frozenset({"a", "b"}), lambda: frozenset({"a", "c"})),
        ({"a": Facts(14)}, lambda: {"a": Facts(16)}),
    ],
)
def test_what_is_no_code_of_a_function_is_read_too(monkeypatch, value, other):
    """Traces are kept from run to run, so that a change that goes unseen would last for days."""

    def key(constant):
        monkeypatch.setattr(attention, "CONSTANT", constant, raising=False)
        return structure(TiedGraph())

    assert key(value) == key(value)
    assert key(value) != key(other())


def test_what_cannot_be_written_down_is_traced(traces):
    graph = TiedGraph()
    graph.module.scale_of = lambda: 1
    assert structure(graph) is None
    assert len(traces(graph).graph.outputs) == 1
    assert not traces.reused
    assert not list(traces.folder.iterdir())


@pytest.mark.parametrize(
    ("kind", "graph"),
    [
        (metadata.DECODER, graphs.DecoderGraph),
        (metadata.SCORING_DECODER, graphs.ScoringDecoderGraph),
        (metadata.EMBED_TOKENS, graphs.EmbedTokensGraph),
        (metadata.VISION_ENCODER, graphs.VisionEncoderGraph),
        (metadata.CANDIDATES, graphs.CandidatesGraph),
        (metadata.SELECTOR, graphs.TokenSelectorGraph),
    ],
)
def test_what_a_kind_of_graph_does_not_read_is_not_imported_by_it(kind, graph):
    assert graph.kind == kind
    pending, seen = [graph.__module__], set()
    while pending:
        name = pending.pop()
        seen.add(name)
        assert not name.startswith(UNREAD[kind])
        for value in vars(sys.modules[name]).values():
            source = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
            # Families are read for every kind: theirs are not followed.
            if str(source).startswith(graphs.__name__) and source not in seen:
                pending.append(source)
            assert not str(source).startswith(UNREAD[kind]), f"{name} has {value!r}"


def test_a_tower_that_is_changed_is_no_other_decoder(monkeypatch):
    def keys():
        return [structure(SimpleNamespace(kind=kind)) for kind in ("decoder", "vision_encoder")]

    before = keys()
    monkeypatch.setattr(pruning.base, "take_best", lambda scores, k: None)
    after = keys()
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    monkeypatch.setattr(graphs.decoder.DecoderWithPast, "forward", lambda self: None)
    assert keys()[0] != after[0]
    assert keys()[1] == after[1]
