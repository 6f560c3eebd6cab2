"""Tower stages as modules, before they are traced: against the gate's masked tower on every kind of
tower, against float64 written from the architecture, and what is refused."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from make_checkpoint import PRESETS
from pocketvlm import PocketVLMError
from pocketvlm.artifact.specs import Pruning
from pocketvlm.artifact.stages import Stage
from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.caps import Caps
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.tower_stages import TOWER_STAGES, find_criterion
from pocketvlm_export.verification.exact import judge_vision
from pocketvlm_export.verification.kept import compare_kept
from pocketvlm_export.verification.pictures import gate_pictures
from pocketvlm_export.verification.vision_reference import vision_reference
from support.clip_oracle import ClipOracle, best
from support.methods import KEEPING

# [CLS]; learnt scales and [CLS]; squares of patches without [CLS]; squares and [CLS]; a mean over
# squares; pictures in tiles.
TOWERS = ("tiny-llama", "tiny-dinov2", "tiny-smolvlm", "tiny-internvl", "tiny-gemma3")
PRUNING = [name for name in PRUNERS if find_pruner(name).prunes]
STAGED = [name for name in KEEPING if find_pruner(name).prunes]


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    """An opened tiny checkpoint by its preset."""
    return functools.cache(lambda preset: open_checkpoint(str(make_tiny(preset))))


def plan_of(opened, *stages, pruner=None, budget=None, **options):
    budgets = () if budget is None else (budget,)
    return make_plan(opened, ExportOptions(pruner, budgets=budgets, tower_stages=stages, **options))


def module_of(plan, stages=None):
    """A plan's vision module, for its first budget."""
    family, spec, weights = plan.spec.family, plan.spec, plan.checkpoint.weights
    with quiet_transformers():
        tower = family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
        projector = family.load_projector(weights, spec)
    return PrunedVisionEncoder(
        tower,
        projector,
        spec.vision,
        plan.pruner,
        plan.budgets[0],
        stages=plan.tower_stages if stages is None else stages,
    )


def encoded(module, pixels):
    with torch.inference_mode():
        return VisionFeatures(*(each.numpy() for each in module(torch.from_numpy(pixels))))


def reference_of(plan, pixels):
    budget = plan.budgets[0]
    pruning = Pruning(
        plan.pruner.name, plan.spec.vision.tokens, (budget,), budget, plan.pruner.options
    )
    with quiet_transformers(), torch.inference_mode():
        made = vision_reference(plan.checkpoint, pruning, pixels, plan.tower_stages)
    return made[budget]


def stages_by(vision, by):
    """Two stages where the tower has layers for them."""
    tokens, last = vision.tokens, vision.score_layer
    first = Stage(1, tokens * 2 // 3, by)
    return (first, Stage(last, tokens // 2, by)) if last > 1 else (first,)


@pytest.mark.parametrize("by", TOWER_STAGES)
@pytest.mark.parametrize("preset", TOWERS)
def test_what_goes_on_is_what_goes_on_in_the_masked_tower(checkpoint, preset, by):
    opened = checkpoint(preset)
    vision = opened.spec.vision
    if find_criterion(by).needs_cls and not vision.has_cls:
        pytest.skip("for towers with [CLS]")
    # Another method with each: each of them is read behind stages somewhere.
    fitting = [
        name for name in STAGED if vision.has_cls or "cls_row" not in find_pruner(name).reads
    ]
    number = TOWERS.index(preset) + list(TOWER_STAGES).index(by)
    stages = stages_by(vision, by)
    plan = plan_of(
        opened, *stages, pruner=fitting[number % len(fitting)], budget=vision.tokens // 4
    )
    pixels = gate_pictures(2, vision.image_size)
    reference = reference_of(plan, pixels)
    rows = list(compare_kept(encoded(module_of(plan), pixels), reference))
    judged = judge_vision(rows, [reference])
    assert judged["passed"], judged
    assert judged["kept_equal"]


@pytest.mark.parametrize(
    ("preset", "caps"),
    [("tiny-llava-onevision", Caps()), ("tiny-lfm2-vl", Caps(fixed_size=(140, 196)))],
)
def test_towers_without_squares_and_of_one_size_by_choice(checkpoint, preset, caps):
    opened = checkpoint(preset)
    tokens = plan_of(opened, caps=caps).spec.vision.tokens
    plan = plan_of(opened, Stage(1, tokens // 2), caps=caps, budget=tokens // 4)
    size = plan.spec.vision.image_size
    assert size is not None
    pixels = gate_pictures(1, size)
    reference = reference_of(plan, pixels)
    rows = list(compare_kept(encoded(module_of(plan), pixels), reference))
    assert judge_vision(rows, [reference])["passed"]


@pytest.mark.parametrize("name", sorted(set(PRUNING) - set(STAGED)))
def test_methods_that_are_refused_behind_stages(checkpoint, name):
    with pytest.raises(PocketVLMError, match=f"pruner {name} .*not proven behind tower stage 1:24"):
        plan_of(checkpoint("tiny-llama"), Stage(1, 24, "even"), pruner=name, budget=5)


@pytest.mark.parametrize("name", STAGED)
def test_every_method_reads_what_is_left(checkpoint, name):
    opened = checkpoint("tiny-llama")
    plan = plan_of(opened, Stage(1, 24, "even"), Stage(2, 12, "cls"), pruner=name, budget=5)
    pixels = gate_pictures(2, (42, 42))
    reference = reference_of(plan, pixels)
    judged = judge_vision(
        list(compare_kept(encoded(module_of(plan), pixels), reference)), [reference]
    )
    assert judged["passed"], judged
    assert judged["kept_equal"]


@pytest.mark.parametrize("by", TOWER_STAGES)
def test_a_stage_that_keeps_all_changes_nothing(checkpoint, by):
    plan = plan_of(checkpoint("tiny-llama"), pruner="fastervlm", budget=9)
    pixels = gate_pictures(2, (42, 42))
    without = encoded(module_of(plan), pixels)
    with_it = encoded(module_of(plan, [Stage(2, 36, by)]), pixels)
    np.testing.assert_array_equal(with_it.kept_indices, without.kept_indices)
    np.testing.assert_allclose(with_it.image_features, without.image_features, atol=1e-5)
    np.testing.assert_allclose(with_it.kept_scores, without.kept_scores, atol=1e-6)


@pytest.mark.parametrize("by", ["cls", "received", "farthest", "even"])
def test_the_tower_equals_one_that_gathers_rows_in_float64(make_tiny, by):
    """No masks, no torch: rows that are dropped are gone."""
    folder = make_tiny()
    oracle = ClipOracle(folder, heads=4, patch=7)
    pixels = gate_pictures(1, (42, 42))

    def farthest(trace):
        rows = trace.output[1:] / np.linalg.norm(trace.output[1:], axis=1, keepdims=True)
        distances = 1 - rows @ rows.T + np.diag(np.full(len(rows), np.inf))
        picks = [int(distances.min(axis=1).argmax())]
        while len(picks) < 18:
            nearest = (1 - rows @ rows[picks].T).min(axis=1)
            nearest[picks] = -1
            picks.append(int(nearest.argmax()))
        return np.sort(picks)

    ways = {
        "cls": lambda trace: best(trace.probabilities[:, 0, 1:].mean(0), 18),
        "received": lambda trace: best(trace.probabilities[:, 1:, 1:].mean((0, 1)), 18),
        "farthest": farthest,
        "even": lambda _: np.array([p for p in range(36) if (p // 6 + p % 6) % 2 == 0]),
    }
    places = []

    def drop(number, trace):
        if number != 2:
            return None
        places.append(ways[by](trace))
        return places[0]

    layer = oracle.run(pixels[0], drop)[-2]
    scores = layer.probabilities[:, 0, 1:].mean(0)
    kept = best(scores, 9)
    plan = plan_of(open_checkpoint(str(folder)), Stage(2, 18, by), pruner="fastervlm", budget=9)
    ours = encoded(module_of(plan), pixels)
    np.testing.assert_array_equal(ours.kept_indices[0], places[0][kept])
    np.testing.assert_allclose(ours.kept_scores[0], scores[kept], atol=1e-6)
    expected = oracle.project(layer.output[1:])[kept]
    np.testing.assert_allclose(ours.image_features[0], expected, atol=1e-4)


def test_features_listed_before_a_stage_are_those_of_what_is_left(make_tiny):
    folder = make_tiny(PRESETS["tiny-llama"].but(llava={"vision_feature_layer": [1, 2, -1]}))
    plan = plan_of(
        open_checkpoint(str(folder)), Stage(1, 30), Stage(3, 20), pruner="fastervlm", budget=9
    )
    pixels = gate_pictures(2, (42, 42))
    reference = reference_of(plan, pixels)
    judged = judge_vision(
        list(compare_kept(encoded(module_of(plan), pixels), reference)), [reference]
    )
    assert judged["passed"], judged
    assert judged["kept_equal"]


def test_a_smaller_budget_is_cut_from_a_larger_one(checkpoint):
    opened, stage = checkpoint("tiny-llama"), Stage(1, 20)
    pixels = gate_pictures(2, (42, 42))
    large, small = (
        encoded(module_of(plan_of(opened, stage, pruner="divprune", budget=budget)), pixels)
        for budget in (20, 6)
    )
    np.testing.assert_array_equal(large.narrow(6).kept_indices, small.kept_indices)
    np.testing.assert_allclose(large.narrow(6).image_features, small.image_features, atol=1e-5)


def test_a_wrong_choice_is_seen(checkpoint, monkeypatch):
    plan = plan_of(checkpoint("tiny-llama"), Stage(2, 18, "cls"), pruner="fastervlm", budget=9)
    pixels = gate_pictures(2, (42, 42))
    reference = reference_of(plan, pixels)
    sound = find_criterion("cls").score
    monkeypatch.setattr(find_criterion("cls"), "score", lambda self, seen: -sound(self, seen))
    rows = list(compare_kept(encoded(module_of(plan), pixels), reference))
    assert not judge_vision(rows, [reference])["passed"]


def test_a_tie_inside_the_tower_is_followed_either_way(checkpoint, monkeypatch):
    """Where two patches are as good as each other, a graph may keep either; a third it may
    not."""
    from pocketvlm_export.verification.tower_stages import even as even_oracle
    from pocketvlm_export.verification.tower_stages.base import Choice

    plan = plan_of(checkpoint("tiny-llama"), Stage(2, 18, "even"), pruner="fastervlm", budget=9)
    pixels = gate_pictures(2, (42, 42))
    ours = encoded(module_of(plan), pixels)
    sound = even_oracle.choose

    def tied(layers, keep):
        kept = sound(layers, keep).kept
        outside = np.setdiff1d(np.arange(36), kept)
        other = np.sort(np.append(kept[1:], outside[-1]))
        return Choice(other, (kept,))

    def wrong(layers, keep):
        return replace(tied(layers, keep), otherwise=())

    monkeypatch.setattr(even_oracle, "choose", tied)
    reference = reference_of(plan, pixels)
    rows = list(compare_kept(ours, reference))
    assert [len(others) for others in reference.instead] == [1, 1]
    assert judge_vision(rows, [reference])["passed"]
    monkeypatch.setattr(even_oracle, "choose", wrong)
    reference = reference_of(plan, pixels)
    assert not judge_vision(list(compare_kept(ours, reference)), [reference])["passed"]


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ([Stage(3, 18)], {}, r"tower stage 3:18:keys is outside layers 1\.\.2"),
        ([Stage(1, 36)], {}, r"keeps 36, which is outside 1\.\.35"),
        ([Stage(1, 0)], {}, r"keeps 0, which is outside 1\.\.35"),
        ([Stage(1, 18, "best")], {}, "tower stages by 'best' are unknown: choose from keys"),
        ([Stage(1, 18)], {"budget": 19}, "budget 19 is more than tower stage 1:18:keys leaves"),
        ([Stage(1, 18)], {"pruner": "none"}, "pruner none keeps every token, and tower stage"),
    ],
)
def test_stages_that_make_no_sense_are_refused(checkpoint, stages, options, message):
    with pytest.raises(PocketVLMError, match=message):
        plan_of(checkpoint("tiny-llama"), *stages, **options)


@pytest.mark.parametrize(
    ("preset", "caps", "message"),
    [
        ("tiny-qwen2-vl", Caps(), "rotate queries and keys by the places of all patches"),
        ("tiny-qwen2.5-vl", Caps(fixed_size=(112, 112)), "attend within windows"),
        ("tiny-qwen3-vl", Caps(), "rotate queries and keys by the places of all patches"),
        ("tiny-lfm2-vl", Caps(), "it reads pictures of any size"),
    ],
)
def test_towers_that_need_all_rows_refuse_stages(checkpoint, preset, caps, message):
    with pytest.raises(PocketVLMError, match=f"tower stage 1:4:keys is not possible.*{message}"):
        plan_of(checkpoint(preset), Stage(1, 4), caps=caps)


def test_ways_by_cls_are_refused_without_one(checkpoint):
    with pytest.raises(PocketVLMError, match=r"ranks patches by a \[CLS\] token.*keys, farthest"):
        plan_of(checkpoint("tiny-smolvlm"), Stage(1, 4, "flowcut"))


def test_without_a_budget_a_quarter_is_kept_or_what_is_left(checkpoint):
    opened = checkpoint("tiny-llama")
    assert plan_of(opened, Stage(1, 18)).budgets == (9,)
    assert plan_of(opened, Stage(1, 5)).budgets == (5,)
    assert plan_of(opened, Stage(1, 18)).tower_stages == (Stage(1, 18, "keys"),)
