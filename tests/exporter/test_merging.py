"""Methods that merge: what becomes of kept tokens against sums written out one by one, at every
budget, in graphs of any number of patches; what is refused."""

import functools
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm import PocketVLMError
from pocketvlm.artifact.specs import Pruning
from pocketvlm_export import ExportOptions
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner, make_pruner
from pocketvlm_export.pruning.base import TEXT, Evidence
from pocketvlm_export.quiet import quiet_tracer, quiet_transformers
from pocketvlm_export.upstream import quick_tracing
from pocketvlm_export.verification.exact import judge_vision
from pocketvlm_export.verification.kept import compare_kept
from pocketvlm_export.verification.mixing import make_mixer
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from pocketvlm_export.verification.vision_reference import VisionReference, vision_reference

HEADS, WIDTH, HIDDEN, DEPTH = 3, 6, 5, 4
DROPPING = [
    name
    for name, method in ((name, find_pruner(name)) for name in PRUNERS)
    if method.prunes and not method.merges and TEXT not in method.reads
]
seeds = st.integers(0, 2**32 - 1)


TOWER = VisionSpec(None, (4, 4), 16, True, feature_layers=(1,))


def scene(seed, grid=(4, 4)):
    """What a tower with [CLS] might have computed, and the same as the gate has it."""
    random, tokens = np.random.default_rng(seed), grid[0] * grid[1]
    maps = np.exp(2 * random.normal(size=(1, HEADS, tokens + 1, tokens + 1)))
    maps = (maps / maps.sum(-1, keepdims=True)).astype(np.float32)
    features, projected, keys = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((tokens, WIDTH), (tokens, HIDDEN), (HEADS, tokens + 1, DEPTH))
    )
    encoded = Encoded(maps, 1, features.astype(float), projected.astype(float), grid, keys=keys)
    evidence = Evidence(
        1,
        grid,
        cls_rows=(torch.from_numpy(maps[0][None, :, 0, 1:]),),
        received=torch.from_numpy(maps[0][None, :, 1:, 1:].mean(axis=(1, 2))),
        keys=torch.from_numpy(keys[None, :, 1:].mean(axis=1)),
        features=torch.from_numpy(features[None]),
        projected=torch.from_numpy(projected[None]),
    )
    return evidence, encoded


def made(name, *, merge_dropped=False, **options):
    pruner = make_pruner(name, options, merge_dropped=merge_dropped)
    pruner.settle(TOWER)
    return pruner


def given_to(pruner, evidence):
    """The evidence without what the method does not read."""
    fields = {"cls_row": "cls_rows"}
    unread = {"cls_row", "received", "keys", "features", "projected"} - pruner.reads
    empty = {fields.get(name, name): () if name == "cls_row" else None for name in unread}
    return replace(evidence, **empty)


def nearest(vectors, token, to):
    """Which of ``to`` has the largest cosine with a token, of equals the first."""
    cosines = [
        vectors[token]
        @ vectors[each]
        / np.linalg.norm(vectors[token])
        / np.linalg.norm(vectors[each])
        for each in to
    ]
    return to[int(np.argmax(cosines))]


@settings(max_examples=30, deadline=None)
@given(seed=seeds, budget=st.integers(1, 16), share=st.sampled_from([0.0, 0.15625, 0.5, 0.9]))
def test_visionzip_is_its_formula(seed, budget, share):
    """The paper's steps one by one, on float64."""
    evidence, encoded = scene(seed)
    pruner = made("visionzip", contextual=str(share))
    kept = pruner.select(given_to(pruner, evidence), budget)
    paid = encoded.attentions[0][:, 0, 1:].astype(float).sum(axis=0)
    count = pruner.contextual(budget)
    dominant = sorted(np.argsort(-paid, kind="stable")[: budget - count].tolist())
    left = [patch for patch in range(16) if patch not in dominant]
    targets = left[:: max(1, len(left) // count)][:count] if count else []
    keys = encoded.keys[:, 1:].astype(float).mean(axis=0)
    expected = {patch: encoded.features[patch] for patch in dominant + targets}
    for target in targets:
        others = [
            patch
            for patch in left
            if patch not in targets and nearest(keys, patch, targets) == target
        ]
        if others:
            expected[target] = expected[target] + encoded.features[others].mean(axis=0)
    assert kept.indices[0].tolist() == sorted(expected)
    np.testing.assert_allclose(kept.scores[0], paid[sorted(expected)] / HEADS, rtol=1e-5)
    features = encoded.features[sorted(expected)] if kept.features is None else kept.features[0]
    np.testing.assert_allclose(
        features, np.stack([expected[patch] for patch in sorted(expected)]), atol=1e-5
    )


def test_the_papers_shares():
    counts = {k: made("visionzip").contextual(k) for k in (1, 2, 3, 7, 14, 36, 64, 128, 192)}
    assert counts == {1: 0, 2: 1, 3: 1, 7: 1, 14: 2, 36: 6, 64: 10, 128: 20, 192: 30}
    assert made("visionzip", contextual="0").contextual(64) == 0
    assert made("visionzip", contextual="0.9").contextual(2) == 1


def test_without_contextual_tokens_it_is_a_plain_ranking():
    evidence, _ = scene(3)
    kept = made("visionzip", contextual="0", weight="received").select(evidence, 5)
    ranked = made("received-attention").select(evidence, 5)
    assert kept.features is None
    np.testing.assert_array_equal(kept.indices, ranked.indices)


class Siglip:
    model_type = "siglip_vision_model"


def test_visionzip_ranks_by_what_the_tower_has():
    without, badly = replace(TOWER, has_cls=False), replace(TOWER, cls_ranks=False)
    for vision in (without, badly):
        pruner = make_pruner("visionzip", {})
        pruner.settle(vision)
        assert pruner.options["weight"] == "received"
        assert pruner.reads == {"keys", "features", "received"}
    asked = make_pruner("visionzip", {"weight": "cls"})
    asked.settle(badly)
    assert asked.reads == {"keys", "features", "cls_row"}
    with pytest.raises(PocketVLMError, match="token: give received, or leave it out"):
        make_pruner("visionzip", {"weight": "cls"}).settle(replace(without, config=Siglip()))
    assert made("visionzip").reads == {"keys", "features", "cls_row"}
    assert made("visionzip", weight="received").reads == {"keys", "features", "received"}
    with pytest.raises(PocketVLMError, match="weight is 'both': expected cls or received"):
        make_pruner("visionzip", {"weight": "both"})
    with pytest.raises(PocketVLMError, match="has no option 'attention': choose from contextual, "):
        make_pruner("visionzip", {"attention": "cls"})


@pytest.mark.parametrize("name", DROPPING)
@settings(max_examples=10, deadline=None)
@given(seed=seeds, budget=st.integers(1, 16))
def test_dropped_tokens_are_averaged_into_the_nearest_kept_one(name, seed, budget):
    evidence, encoded = scene(seed)
    pruner = made(name, merge_dropped=True)
    plain = made(name).select(given_to(made(name), evidence), budget)
    kept = pruner.select(given_to(pruner, evidence), budget)
    np.testing.assert_array_equal(kept.indices, plain.indices)
    np.testing.assert_array_equal(kept.scores, plain.scores)
    tokens = encoded.projected if "projected" in pruner.reads else encoded.features
    groups = {patch: [tokens[patch]] for patch in kept.indices[0].tolist()}
    for patch in range(16):
        if patch not in groups:
            groups[nearest(tokens, patch, sorted(groups))].append(tokens[patch])
    means = np.stack([np.mean(groups[patch], axis=0) for patch in sorted(groups)])
    np.testing.assert_allclose(kept.features[0], means, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "merge_dropped"), [("visionzip", False), ("divprune", True), ("vtc-cls", True)]
)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, budget=st.integers(1, 16))
def test_the_gate_holds_merged_features_against_its_own(name, merge_dropped, seed, budget):
    """What a graph would give is passed; with two kept tokens exchanged, or the tokens as they were
    before, it is not."""
    evidence, encoded = scene(seed)
    pruner = made(name, merge_dropped=merge_dropped)
    projector = torch.nn.Linear(WIDTH, HIDDEN, bias=False)
    kept = pruner.select(given_to(pruner, evidence), budget)
    late = "projected" in pruner.reads
    rows = (evidence.projected if late else evidence.features)[0, kept.indices[0]][None]
    merged = rows if kept.features is None else kept.features
    with torch.no_grad():
        ours, before = (x if late else projector(x) for x in (merged, rows))
    ranking = find_oracle(name)(encoded, pruner.options)
    pruning = Pruning(name, 16, (budget,), budget, pruner.options, False, merge_dropped)
    mixer = make_mixer(pruning, pruner, encoded, ranking, projector)
    expected, certain = mixer.rows(ranking.kept(budget), ranking.scores[ranking.kept(budget)])
    reference = VisionReference(
        expected[None], ranking.kept(budget)[None], [ranking], mixers=[mixer], certain=all(certain)
    )

    def judged(features):
        encoded = Features(features.numpy(), kept.indices.numpy(), kept.scores.numpy())
        return judge_vision(list(compare_kept(encoded, reference)), [reference])

    assert judged(ours)["passed"], judged(ours)
    if (ours - before).abs().max() > 1e-3 and reference.certain:
        assert not judged(before)["passed"]


class Features:
    """A graph's outputs."""

    def __init__(self, image_features, kept_indices, kept_scores):
        self.extras = {}
        self.image_features, self.kept_indices = image_features, kept_indices
        self.kept_scores = kept_scores


def test_what_rounding_decides_is_not_compared_and_too_much_of_it_fails():
    """Keys that are all alike: no token belongs to one target rather than to another."""
    _, encoded = scene(0)
    alike = replace(encoded, keys=np.ones_like(encoded.keys))
    pruner = made("visionzip", contextual="0.5")
    ranking = find_oracle("visionzip")(alike, pruner.options)
    kept = ranking.kept(8)
    mixture = ranking.mixture(kept, ranking.scores[kept])
    assert mixture.certain.sum() == 4  # the dominant ones
    assert ranking.mixture(np.arange(16), ranking.scores).certain.all()


METHODS = {"visionzip": False, "fastervlm": True}  # and whether they are asked to merge


class Select(torch.nn.Module):
    """Selections of pictures of any number of patches, by several methods."""

    def forward(self, row, keys, features):
        evidence = Evidence(1, (1, row.shape[2]), cls_rows=(row,), keys=keys, features=features)
        made_by = [made(name, merge_dropped=merges) for name, merges in METHODS.items()]
        return tuple(value for pruner in made_by for value in pruner.select(evidence, 9))


@pytest.fixture(scope="module")
def session():
    """Nine of any number, as ONNX Runtime runs it."""
    tokens = torch.export.Dim("tokens", min=1, max=64)
    inputs = (torch.randn(1, HEADS, 20), torch.randn(1, 20, DEPTH), torch.randn(1, 20, WIDTH))
    axes = ({2: tokens}, {1: tokens}, {1: tokens})
    with quiet_tracer(), quick_tracing():
        program = torch.onnx.export(
            Select().eval(), inputs, dynamo=True, dynamic_shapes=axes, verbose=False
        )
    proto = ir.to_proto(program.model).SerializeToString()
    return ort.InferenceSession(proto, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 10, 13, 36])
def test_pictures_of_any_number_of_patches(session, tokens):
    """Fewer than are dominant, than are kept, and more."""
    evidence, encoded = scene(tokens, (1, tokens))
    values = [evidence.cls_rows[0], evidence.keys, evidence.features]
    names = [each.name for each in session.get_inputs()]
    outputs = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
    for number, (name, merges) in enumerate(METHODS.items()):
        indices, _, features = outputs[3 * number : 3 * number + 3]
        pruner = made(name, merge_dropped=merges)
        expected = pruner.select(given_to(pruner, evidence), 9)
        assert indices.shape == (1, min(9, tokens))
        np.testing.assert_array_equal(indices, expected.indices)
        np.testing.assert_allclose(features, expected.features, atol=1e-5)
        if tokens <= 9:
            np.testing.assert_allclose(features[0], encoded.features, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("none", "pruner none drops nothing: leave --merge-dropped out"),
        ("cdpruner", "pruner cdpruner selects by the question, in a graph that gives tokens as"),
        ("visionzip", "pruner visionzip merges what it drops in a way of its own: leave"),
    ],
)
def test_methods_that_have_nothing_to_merge(name, line):
    with pytest.raises(PocketVLMError, match=line) as refusal:
        make_pruner(name, {}, merge_dropped=True)
    assert refusal.value.setting == "merge_dropped"


@pytest.mark.parametrize(
    ("options", "line", "setting"),
    [
        ({"merge_dropped": True}, "--merge-dropped makes one token of several", "merge_dropped"),
        ({"pruner": "visionzip"}, "pruner visionzip makes one token of several", "pruner"),
    ],
)
def test_tokens_with_further_features_are_not_merged(make_tiny, options, line, setting):
    checkpoint = open_checkpoint(str(make_tiny("tiny-qwen3-vl")))
    with pytest.raises(PocketVLMError, match=f"{line}, and the decoder .*deepstack_0") as refusal:
        make_plan(checkpoint, ExportOptions(**options))
    assert refusal.value.setting == setting


@functools.cache
def opened(checkpoint):
    """A checkpoint's tower and projector as they are traced."""
    checkpoint = open_checkpoint(str(checkpoint))
    family, spec, weights = checkpoint.family, checkpoint.spec, checkpoint.weights
    with quiet_transformers():
        layers = spec.vision.depth
        tower = family.load_tower(weights, spec, layers=layers, attention="eager")
        return checkpoint, tower, family.load_projector(weights, spec)


@pytest.mark.parametrize(
    "options",
    [
        {"pruner": "visionzip"},
        {"pruner": "visionzip", "pruner_options": {"weight": "received", "contextual": "0.5"}},
        {"pruner": "received-attention", "merge_dropped": True},
        {"pruner": "divprune", "merge_dropped": True},
    ],
    ids=["visionzip", "received", "merged", "projected"],
)
@pytest.mark.parametrize(
    "preset", ["tiny-llama", "tiny-internvl", "tiny-qwen2.5-vl", "tiny-gemma3", "tiny-smolvlm"]
)
def test_every_kind_of_tower_merges_as_transformers_modules_do(checkpoints, preset, options):
    """With [CLS] and without, squares of patches side by side or their means, towers that turn
    their keys and have patches in another order."""
    checkpoint, tower, projector = opened(checkpoints(preset))
    plan = make_plan(checkpoint, ExportOptions(**options, budgets=(6,)))
    spec = plan.spec.vision
    height, width = spec.image_size or (4 * spec.factor, 5 * spec.factor)
    pixels = np.random.default_rng(7).normal(size=(2, 3, height, width)).astype(np.float32)
    module = PrunedVisionEncoder(tower, projector, spec, plan.pruner, 6)
    with quiet_transformers(), torch.inference_mode():
        features, indices, scores = module(torch.from_numpy(pixels))
        method, merge_dropped = plan.pruner.name, plan.options.merge_dropped
        pruning = Pruning(method, spec.tokens, (6,), 6, plan.pruner.options, False, merge_dropped)
        expected = vision_reference(plan.checkpoint, pruning, pixels)[6]
    np.testing.assert_array_equal(indices, expected.kept_indices)
    outputs = Features(features.numpy(), indices.numpy(), scores.numpy())
    judged = judge_vision(list(compare_kept(outputs, expected)), [expected])
    assert judged["passed"], judged
    assert judged["merged_compared"] > 0.7
    if expected.certain:
        np.testing.assert_allclose(features, expected.image_features, atol=1e-4)


@pytest.fixture(scope="module")
def checkpoints(make_tiny):
    """A preset's checkpoint, written once."""
    return functools.cache(make_tiny)
