"""What the parity gate lets pass, on made-up results: no graph is built."""

from typing import ClassVar

import numpy as np
import pytest

from pocketvlm.vision import VisionFeatures
from pocketvlm_export.verification import gate
from pocketvlm_export.verification.oracles import Ranking
from pocketvlm_export.verification.reference import DecoderReference, VisionReference

SCORES = np.array([[0.4, 0.3, 0.2, 0.1], [0.3, 0.2, 0.2, 0.1]], np.float32)  # the second picture is tied at the cut
FEATURES = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3) / 10
KEPT = np.array([[0, 1], [0, 1]])
LOGITS = np.random.default_rng(0).normal(size=(gate.STEPS, 7)).astype(np.float32)


def take(values, kept):
    return np.stack([row[at] for row, at in zip(values, kept, strict=True)])


@pytest.fixture
def references():
    vision = VisionReference(take(FEATURES, KEPT), KEPT, [Ranking(row.astype(np.float64)) for row in SCORES])
    tokens = [int(row.argmax()) for row in LOGITS]
    return gate.References(None, {2: vision}, None, DecoderReference(np.arange(3), tokens, LOGITS))


@pytest.fixture
def measure(references, monkeypatch):
    """The gate's figures of a graph that keeps ``kept``, with features and scores changed by ``spoil``."""

    def call(kept=KEPT, spoil=lambda features, scores: None, precision="fp32"):
        kept = np.array(kept)
        features, scores = take(FEATURES, kept), take(SCORES, kept)
        spoil(features, scores)
        monkeypatch.setattr(gate, "_encode", lambda *_: VisionFeatures(features, kept, scores))
        if precision == "fp32":
            return gate._measure_vision(None, references, precision)
        monkeypatch.setattr(gate, "_vision_precisions", lambda _: [precision])
        monkeypatch.setattr(gate, "_bytes", lambda *_: 1)
        result = gate._measure_other(_WithoutDecoder, references, precision)
        return result["vision"] | {"passed": result["passed"]}

    return call


class _WithoutDecoder:
    class manifest:
        class vision:
            graphs: ClassVar = {}

        class decoder:
            graphs = ()


def set_to(value, part):
    def spoil(features, scores):
        (features if part == "features" else scores).flat[0] = value

    return spoil


def test_equal_results_pass(measure):
    assert measure()["passed"] is True
    assert measure(precision="fp16")["passed"] is True


@pytest.mark.parametrize("part", ["features", "scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5 + 1e-3])
def test_what_is_not_close_fails(measure, part, value):
    assert measure(spoil=set_to(value, part))["passed"] is False


def test_nan_fails_where_only_cosines_are_held(measure):
    assert measure(spoil=set_to(np.nan, "features"), precision="fp16")["passed"] is False


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_fails(measure, references, value):
    references.vision[2].image_features.flat[-1] = value
    assert measure()["passed"] is False


def test_a_tie_may_be_cut_either_way(measure):
    figures = measure(kept=[[0, 1], [0, 2]])
    assert figures["passed"] is True
    assert figures["kept_equal"] is False


@pytest.mark.parametrize(
    "kept",
    [
        [[0, 2], [0, 2]],  # the tie is the other picture's
        [[0, 1], [2, 0]],  # order
        [[0, 1], [0, 3]],  # below the tie
        [[0, 1], [1, 2]],  # above it
    ],
    ids=str,
)
def test_a_tie_excuses_nothing_else(measure, kept):
    assert measure(kept=kept)["passed"] is False


@pytest.mark.parametrize(("kept", "passed"), [([[0, 1], [0, 2]], True), ([[0, 1], [0, 3]], False)])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_may_only_exchange_patches_near_the_cut(measure, kept, passed, precision):
    figures = measure(kept=kept, precision=precision)
    assert figures["kept_overlap"] == 0.5
    assert figures["passed"] is passed


@pytest.mark.parametrize("where", ["ours", "reference"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail(references, monkeypatch, where, value):
    ours = LOGITS.copy()
    tokens = list(references.decoder.token_ids)
    spoilt = ours if where == "ours" else (theirs := LOGITS.copy())
    spoilt[3, tokens[3] - 1] = value
    if where == "reference":
        references = gate.References(None, {}, None, DecoderReference(np.arange(3), tokens, theirs))
    monkeypatch.setattr(gate, "_answer", lambda *_: (tokens, ours, True))
    assert gate._measure_decoder(None, references, "fp32")["passed"] is False


def test_logits_that_are_close_pass(references, monkeypatch):
    monkeypatch.setattr(gate, "_answer", lambda *_: (references.decoder.token_ids, LOGITS + 1e-5, True))
    assert gate._measure_decoder(None, references, "fp32")["passed"] is True
