"""Figures beside the formula, and bounds: what is within passes, what is beyond does not."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine as distance

from pocketvlm.selftest.computing import TestAnswer
from pocketvlm.selftest.expected import Bounds, ExpectedAnswer, ExpectedVision, Sample
from pocketvlm.selftest.judging import judge_answer, judge_vision
from pocketvlm.selftest.result import Figure, GraphResult, SelfTestResult
from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.selftest.sampling import sample_answer, sample_batch
from pocketvlm_export.selftest.slack import EXACT, LEAST, TIMES, bounds_of

TILES, TOKENS, KEPT, HIDDEN, VOCAB, STEPS = 2, 40, 24, 64, 500, 4


def seen(seed=0, extras=("deepstack_0",)):
    rng = np.random.default_rng(seed)
    kept = np.sort(np.stack([rng.permutation(TOKENS)[:KEPT] for _ in range(TILES)]), axis=1)
    shape = (TILES, KEPT, HIDDEN)
    return VisionFeatures(
        rng.normal(size=shape).astype(np.float32) * 9,
        kept,
        rng.random((TILES, KEPT), dtype=np.float32),
        extras={name: rng.normal(size=shape).astype(np.float32) for name in extras},
    )


def by_name(figures):
    return {figure.name: figure for figure in figures}


def test_the_same_is_within_every_bound():
    features = seen()
    expected = ExpectedVision([sample_batch(features)], {})
    figures = by_name(judge_vision([features], expected, Bounds(1 - 1e-9, 1.0, 0.0)))
    assert all(figure.passed for figure in figures.values())
    assert set(figures) == {"kept", "features", "features differ", "scores differ"}
    (batch,) = expected.batches
    assert len(batch.rows) == len(batch.columns) == 32
    assert {tile for tile, _ in batch.rows.tolist()} == {0, 1}


@given(st.floats(0, 3), st.sampled_from(["image_features", "deepstack_0"]))
@settings(max_examples=25, deadline=None)
def test_a_difference_counts_as_a_part_of_the_largest(part, name):
    features = seen()
    expected = ExpectedVision([sample_batch(features)], {})
    largest = expected.batches[0].samples[name].largest
    own = {"image_features": features.image_features, **features.extras}
    off = own[name] + np.float32(part * EXACT * max(1.0, largest))
    changed = (
        dataclasses.replace(features, image_features=off)
        if name == "image_features"
        else dataclasses.replace(features, extras={name: off})
    )
    figure = by_name(judge_vision([changed], expected, Bounds(0.0, 1.0, EXACT)))["features differ"]
    assert figure.value == pytest.approx(part * EXACT, abs=1e-6)
    if abs(part - 1) > 0.01:
        assert figure.passed == (part < 1)


@given(st.integers(0, KEPT))
@settings(max_examples=15, deadline=None)
def test_the_overlap_is_counted_over_all_tiles(exchanged):
    features = seen()
    expected = ExpectedVision([sample_batch(features)], {})
    unused = np.setdiff1d(np.arange(TOKENS), features.kept_indices[0])[:exchanged]
    kept = features.kept_indices.copy()
    exchanged = len(unused)
    kept[0] = np.sort(np.concatenate([kept[0][exchanged:], unused]))
    changed = dataclasses.replace(features, kept_indices=kept)
    figure = by_name(judge_vision([changed], expected, Bounds(0.0, 1.0)))["kept"]
    assert figure.value == pytest.approx(1 - exchanged / (TILES * KEPT))
    assert figure.passed == (exchanged == 0)


def test_features_are_compared_token_by_token_wherever_they_stand():
    """A device that keeps another token beside the same ones has these at other numbers."""
    features = seen(extras=())
    expected = ExpectedVision([sample_batch(features)], {})
    new = int(np.setdiff1d(np.arange(TOKENS), features.kept_indices[0])[0])
    order = np.argsort(np.append(features.kept_indices[0][1:], new), kind="stable")
    rows = np.concatenate([features.image_features[0][1:], np.full((1, HIDDEN), 5, np.float32)])
    changed = dataclasses.replace(
        features,
        kept_indices=np.stack(
            [np.append(features.kept_indices[0][1:], new)[order], features.kept_indices[1]]
        ),
        image_features=np.stack([rows[order], features.image_features[1]]),
    )
    figure = by_name(judge_vision([changed], expected, Bounds(0.0, 0.0)))["features"]
    assert figure.value == pytest.approx(1.0, abs=1e-6)


def test_nothing_in_common_is_no_agreement():
    features = seen()
    expected = ExpectedVision([sample_batch(features)], {})
    others = np.stack([np.arange(TOKENS, TOKENS + KEPT)] * TILES)
    changed = dataclasses.replace(features, kept_indices=others)
    figures = judge_vision([changed], expected, Bounds(0.1, 0.1, EXACT))
    assert not any(figure.passed for figure in figures)


def logits(seed=1):
    return np.random.default_rng(seed).normal(size=(STEPS, VOCAB)).astype(np.float32) * 4


def answered(rows, paid=None):
    return TestAnswer(rows, [int(row.argmax()) for row in rows], paid)


def test_what_attention_pays_is_compared_where_a_decoder_says_so():
    paid = np.random.default_rng(0).random(200, dtype=np.float32)
    expected = sample_answer(answered(logits(), paid))
    assert len(expected.attended) == 64
    exact = Bounds(0.999, difference=EXACT)
    assert all(figure.passed for figure in judge_answer(answered(logits(), paid), expected, exact))
    figures = by_name(judge_answer(answered(logits(), paid * 1.01), expected, exact))
    assert figures["attention"].passed
    most = np.abs(paid[expected.attended]).max() / paid.max()
    assert figures["attention differs"].value == pytest.approx(0.01 * most, rel=1e-3)
    assert not figures["attention differs"].passed
    assert not by_name(judge_answer(answered(logits()), expected, exact))["attention"].passed


def test_logits_are_compared_by_what_a_softmax_sees():
    ours, theirs = logits(1), logits(2) + 7
    answer = sample_answer(answered(theirs))
    figure = by_name(judge_answer(answered(ours), answer, Bounds(0.0)))["logits"]
    a, b = ours[:, answer.columns], theirs[:, answer.columns]
    centred = [each - each.mean(axis=1, keepdims=True) for each in (a, b)]
    assert figure.value == pytest.approx(
        1 - distance(*(each.ravel() for each in centred)), abs=1e-6
    )


def test_the_largest_logits_are_among_the_sampled():
    theirs = logits()
    answer = sample_answer(answered(theirs))
    assert set(np.argsort(-theirs, axis=1)[:, :8].ravel()) <= set(answer.columns.tolist())
    assert set(answer.token_ids) <= set(answer.columns.tolist())
    assert len(answer.columns) <= 8 * STEPS + 96


def test_another_token_is_only_excused_by_a_near_tie():
    columns, values = np.arange(3), np.float32([[5.0, 4.9999, 1.0]])
    answer = ExpectedAnswer([0], columns, Sample(values, 5.0), {}, {})
    bounds = Bounds(0.0, difference=EXACT)
    for token, passes in ((0, True), (1, True), (2, False), (7, False)):
        row = np.zeros((1, 12), np.float32)
        row[0, :3] = values
        row[0, token] = 5.00001
        figure = by_name(judge_answer(TestAnswer(row, [token]), answer, bounds))
        assert figure["tokens"].passed == passes


def test_what_is_no_number_passes_no_bound():
    for at_least in (True, False):
        assert not Figure("logits", float("nan"), 0.5, at_least).passed
    answer = sample_answer(answered(logits()))
    broken = np.full((STEPS, VOCAB), np.nan, np.float32)
    figures = judge_answer(answered(broken), answer, Bounds(0.5, difference=EXACT))
    assert not any(figure.passed for figure in figures)


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_bounds_leave_slack_for_other_cpus(kept, features):
    figures = [Figure("kept", kept, 0), Figure("features", features, 0)]
    bounds = bounds_of(figures, exact=False)
    assert bounds.difference is None
    assert 0 <= bounds.cosine <= 1 - LEAST["features"]
    lost = 1 - bounds.cosine
    assert lost == pytest.approx(min(1, max(LEAST["features"], TIMES * (1 - features))), abs=1e-5)
    assert bounds.kept_overlap == pytest.approx(max(0, 1 - max(0.1, 3 * (1 - kept))), abs=1e-5)
    exact = bounds_of(figures, exact=True)
    assert exact.difference == EXACT
    assert (exact.kept_overlap == 1) == (kept == 1)


def test_a_result_says_what_failed_first():
    sound = GraphResult("a", "a.onnx", "a", [Figure("kept", 1.0, 1.0)])
    wrong = GraphResult("b", "b.onnx", "b", [Figure("kept", 0.25, 0.9), Figure("x", 1, 0)])
    assert SelfTestResult("P", [sound]).passed
    result = SelfTestResult("P", [sound, wrong])
    assert not result.passed
    assert wrong.problem == "kept 0.25 (at least 0.9)"
    with pytest.raises(Exception, match=r"b\.onnx of folder fails its self-test on P \(kept 0\.25"):
        result.raise_if_failed("folder")
