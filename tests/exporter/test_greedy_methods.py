"""SCOPE and SCoRe: against their formulas in float64, at the limits of their options, on what has
no order of its own, and as ONNX Runtime runs them."""

import dataclasses

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.artifact.specs import Pruning
from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs import trace
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes import tidy
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.pruning.base import Evidence
from pocketvlm_export.pruning.cdpruner import greedy_map
from pocketvlm_export.pruning.greedy import farthest_first, widest_cover
from pocketvlm_export.pruning.picks import DOMAIN
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from pocketvlm_export.verification.pictures import gate_pictures
from pocketvlm_export.verification.vision_reference import vision_reference

METHODS = ("scope", "score")
TOWER = VisionSpec(config=None, image_size=(8, 8), tokens=4, has_cls=True, feature_layers=(1,))
seeds = st.integers(0, 2**32 - 1)
words = {"features": ["projected", "tower"], "weight": ["cls", "received", "none"]}


def settled(name, vision=TOWER, **options):
    pruner = make_pruner(name, {key: str(value) for key, value in options.items()})
    pruner.settle(vision)
    return pruner


def evidence_of(encoded, *, batch=1):
    """What the vision graph would give a method of one picture, ``batch`` times."""
    (maps,) = encoded.attentions
    return Evidence(
        batch,
        encoded.grid,
        cls_rows=(torch.from_numpy(maps[None, :, 0, 1:]).expand(batch, -1, -1),),
        received=torch.from_numpy(maps[None, :, 1:, 1:].mean(axis=(1, 2))).expand(batch, -1),
        features=torch.from_numpy(encoded.features[None].astype(np.float32)).expand(batch, -1, -1),
        projected=torch.from_numpy(encoded.projected[None].astype(np.float32)).expand(
            batch, -1, -1
        ),
    )


def picture(seed, tokens, width, *, heads=2, clusters=3):
    """Clustered features of a picture of one row of tokens, some of them equal or zero."""
    random = np.random.default_rng(seed)
    maps = np.exp(2 * random.normal(size=(1, heads, tokens + 1, tokens + 1)))
    maps = (maps / maps.sum(axis=-1, keepdims=True)).astype(np.float32)
    centres = random.normal(size=(clusters, width))
    noise = random.choice([0.0, 0.7], tokens)[:, None] * random.normal(size=(tokens, width))
    projected = (centres[random.integers(0, clusters, tokens)] + noise).astype(np.float32)
    projected[random.random(tokens) < 0.1] = 0
    features = random.normal(size=(tokens, width)).astype(np.float32)
    return Encoded(maps, 1, features.astype(float), projected.astype(float), (1, tokens))


def order_of(selection):
    """Patches in the order in which they were picked."""
    indices, scores = selection.indices[0].numpy(), selection.scores[0].numpy()
    return indices[np.argsort(-scores, kind="stable")].tolist()


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    tokens=st.integers(1, 40),
    width=st.integers(1, 12),
    budget=st.integers(1, 48),
    alpha=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    features=st.sampled_from(words["features"]),
    weight=st.sampled_from(words["weight"]),
)
def test_each_pick_is_the_best_by_the_formula(
    name, seed, tokens, width, budget, alpha, features, weight
):
    pruner = settled(name, alpha=alpha, features=features, weight=weight)
    encoded = picture(seed, tokens, width)
    selection = pruner.select(evidence_of(encoded), budget)
    indices, scores = selection.indices[0].numpy(), selection.scores[0].numpy()
    assert len(indices) == min(budget, tokens)
    assert (np.diff(indices) > 0).all()
    ranking = find_oracle(name)(encoded, pruner.options)
    assert ranking.distance(indices, scores) == 0
    assert ranking.score_difference(indices, scores) < 1e-6
    if ranking.gap(len(indices)) > 1e-3:
        np.testing.assert_array_equal(indices, ranking.kept(len(indices)))


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=20, deadline=None)
@given(seed=seeds, tokens=st.integers(2, 30), data=st.data())
def test_the_first_picks_are_those_of_a_smaller_budget(name, seed, tokens, data):
    evidence, pruner = evidence_of(picture(seed, tokens, 6)), settled(name)
    small = data.draw(st.integers(1, tokens))
    every, few = pruner.select(evidence, tokens), pruner.select(evidence, small)
    assert order_of(every)[:small] == order_of(few)
    assert sorted(order_of(every)) == list(range(tokens))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("vectors", [np.ones((9, 4)), np.zeros((9, 4))], ids=["equal", "zero"])
@pytest.mark.parametrize("attention", [1 / 10, 0.0])
def test_no_patch_is_picked_twice_where_all_are_worth_as_much(name, vectors, attention):
    maps = np.full((1, 2, 10, 10), attention, dtype=np.float32)
    selection = settled(name).select(evidence_of(Encoded(maps, 1, vectors, vectors, (3, 3))), 9)
    assert selection.indices[0].tolist() == list(range(9))


def test_ties_go_to_the_lower_index():
    """Orthogonal features of one weight: each adds as much as any other, and lies as far."""
    vectors = np.eye(8)
    maps = np.full((1, 2, 9, 9), 1 / 9, dtype=np.float32)
    evidence = evidence_of(Encoded(maps, 1, vectors, vectors, (2, 4)))
    for name in METHODS:
        assert order_of(settled(name).select(evidence, 5)) == [0, 1, 2, 3, 4]
        assert order_of(settled(name, weight="none").select(evidence, 5)) == [0, 1, 2, 3, 4]


@settings(max_examples=20, deadline=None)
@given(seed=seeds, tokens=st.integers(3, 25))
def test_without_a_weight_score_is_farthest_point_from_the_first_patch(seed, tokens):
    encoded = picture(seed, tokens, 7, clusters=tokens)
    evidence = evidence_of(encoded)
    order = order_of(settled("score", weight="none").select(evidence, tokens))
    assert order == order_of(
        settled("score", alpha=0.0, weight="received").select(evidence, tokens)
    )
    unit = encoded.projected / np.maximum(
        np.linalg.norm(encoded.projected, axis=1, keepdims=True), 1e-12
    )
    nearest = 1 - unit @ unit[0]
    assert order[0] == 0
    assert nearest[order[1]] >= nearest.max() - 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_a_large_exponent_ranks_by_attention_where_patches_differ(name):
    """Orthogonal features: none stands for another, so the weight alone decides."""
    tokens, random = 12, np.random.default_rng(2)
    maps = np.zeros((1, 1, tokens + 1, tokens + 1), dtype=np.float32)
    maps[0, 0, 0, 1:] = random.permutation(0.3 ** np.arange(tokens))
    evidence = evidence_of(Encoded(maps, 1, np.eye(tokens), np.eye(tokens), (3, 4)))
    by_attention = make_pruner("fastervlm", {}).select(evidence, 5).indices
    for alpha in (0.5, 4.0):
        kept = settled(name, alpha=alpha).select(evidence, 5)
        np.testing.assert_array_equal(kept.indices, by_attention)
    # Of two that look alike, the second one is kept by a large exponent alone.
    vectors = np.eye(tokens)
    first, second = np.argsort(-maps[0, 0, 0, 1:])[:2]
    vectors[second] = vectors[first] + 0.5 * vectors[second]
    evidence = evidence_of(Encoded(maps, 1, vectors, vectors, (3, 4)))
    assert order_of(settled(name, alpha=4.0).select(evidence, 2)) == [first, second]
    assert order_of(settled(name, alpha=0.3).select(evidence, 2)) != [first, second]


def test_cover_begins_with_what_most_patches_look_like():
    """Five patches alike, two alike, one by itself: SCOPE picks one of each in that order, and
    farthest-first does not care how many a patch stands for."""
    vectors = np.eye(3)[[2, 0, 1, 0, 0, 1, 0, 0]]
    evidence = Evidence(1, (2, 4), projected=torch.from_numpy(vectors[None].astype(np.float32)))
    assert order_of(settled("scope", weight="none").select(evidence, 3)) == [1, 2, 0]
    assert order_of(settled("score", weight="none").select(evidence, 3)) == [0, 1, 2]


def test_weight_is_that_of_cls_where_it_ranks_patches():
    without = dataclasses.replace(TOWER, has_cls=False)
    badly = dataclasses.replace(TOWER, cls_ranks=False)
    for name in METHODS:
        assert settled(name).options["weight"] == "cls"
        assert settled(name).reads == {"projected", "cls_row"}
        for vision in (without, badly):
            assert settled(name, vision).options["weight"] == "received"
            assert settled(name, vision).reads == {"projected", "received"}
        # What is asked for is done, where it can be.
        assert settled(name, badly, weight="cls", features="tower").reads == {"features", "cls_row"}
        assert settled(name, without, weight="none").reads == {"projected"}
        assert make_pruner(name, {}).reads == {"projected"}  # of any tower


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": "CLS"}, "option weight is 'CLS': expected cls, received or none"),
        ({"features": ""}, "option features is '': expected projected or tower"),
        ({"alpha": "-1"}, r"option alpha is -1: expected a number within 0\.0\.\.4\.0"),
        ({"alpha": "cls"}, "option alpha is 'cls': expected a number"),
        ({"exponent": "1"}, "has no option 'exponent': choose from alpha, features, weight"),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_options_that_are_refused(name, options, message):
    with pytest.raises(RequestError, match=message) as caught:
        make_pruner(name, options)
    assert caught.value.setting == "pruner_option"


@pytest.mark.parametrize("name", METHODS)
def test_cls_is_refused_where_there_is_none(name):
    without = dataclasses.replace(TOWER, has_cls=False, config=_Config())
    with pytest.raises(
        RequestError, match=r"a siglip_vision_model, which has no \[CLS\]"
    ) as caught:
        settled(name, without, weight="cls")
    assert (caught.value.setting, caught.value.advice) == (
        "pruner_option",
        "give received or none, or leave it out",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": "rows"}, "option weight is 'rows'"),
        ({"weight": None}, "option weight is 'None'"),
        ({"features": ["tower"]}, "option features is"),
        ({"alpha": float("nan")}, "option alpha is nan"),
        ({"seed": 1}, "no option 'seed'"),
    ],
)
def test_damaged_options_of_a_manifest_are_refused(tiny_checkpoint, options, message):
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    pixels = np.zeros((1, 3, 42, 42), dtype=np.float32)
    with pytest.raises(RequestError, match=message):
        vision_reference(checkpoint, Pruning("scope", 36, (9,), 9, options), pixels)


def test_options_that_a_manifest_leaves_out_are_the_default(tiny_checkpoint):
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    pixels = gate_pictures(1, (42, 42))
    stated = {"features": "projected", "alpha": 1.0, "weight": "cls"}
    kept = [
        vision_reference(checkpoint, Pruning("scope", 36, (9,), 9, options), pixels)[9]
        for options in ({}, stated, {"weight": "none"})
    ]
    np.testing.assert_array_equal(kept[0].kept_indices, kept[1].kept_indices)
    assert not np.array_equal(kept[0].kept_indices, kept[2].kept_indices)


class _Config:
    model_type = "siglip_vision_model"


class Picking(torch.nn.Module):
    """Each way of picking, of pictures of any number of tokens."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, alike, weights):
        # Of the kernel no two patches are worth as much: there rounding would decide.
        scale = 1 + torch.arange(alike.shape[1]) / 64
        kernel = (torch.eye(alike.shape[1]) + alike / 64) * scale[:, None] * scale
        return (
            widest_cover(alike, self.count, weights),
            farthest_first(1 - alike, self.count, weights),
            farthest_first(1 - alike, self.count),
            greedy_map(kernel, self.count),
        )


class PickingGraph:
    kind, input_names = "picking", ("alike", "weights")
    output_names = ("cover", "far", "farthest", "determinant")

    def __init__(self, count):
        self.output_axes = {name: {0: "batch_size"} for name in self.output_names}
        self.module = Picking(count).eval()
        tokens = torch.export.Dim("tokens", min=1, max=64)
        self.dynamic_axes = (
            {0: "batch_size", 1: tokens, 2: tokens},
            {0: "batch_size", 1: tokens},
        )

    def sample_inputs(self):
        return torch.rand(2, 9, 9), torch.rand(2, 9)


@pytest.fixture(scope="module", params=[1, 2, 5])
def picking(request):
    """The module, and a session of its graph, by how many it picks."""
    graph = PickingGraph(request.param)
    model = trace(graph)
    assert sum(node.domain == DOMAIN for node in model.graph) == 4  # one for each way
    tidy(model, graph.output_axes)
    assert model.graph.opset_imports.keys() == {""}
    return graph.module, ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )


@settings(max_examples=20, deadline=None)
@given(seed=seeds, tokens=st.integers(1, 40))
def test_onnx_picks_as_torch_does(picking, seed, tokens):
    """Sums of eighths are exact, so that ties are ties on both sides."""
    random = np.random.default_rng(seed)
    eighths = np.float32(random.integers(-4, 9, (2, tokens, tokens)) / 8)
    alike = np.maximum(eighths, eighths.transpose(0, 2, 1))
    weights = random.choice(np.float32([0.0, 0.25, 0.5, 1.0]), (2, tokens))
    module, session = picking
    names = [each.name for each in session.get_inputs()]
    theirs = session.run(None, dict(zip(names, (alike, weights), strict=True)))
    with torch.inference_mode():
        ours = module(torch.from_numpy(alike), torch.from_numpy(weights))
    within = min(module.count, tokens)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine[:, :within], other[:, :within])
        assert all(len(set(row.tolist())) == within for row in other[:, :within])
