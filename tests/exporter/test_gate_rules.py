"""What the parity gate lets pass, on made-up results: no graph is built."""

from types import SimpleNamespace

import numpy as np
import pytest

from pocketvlm import Artifact
from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.precisions import PRECISIONS
from pocketvlm_export.verification.bounds import STEPS
from pocketvlm_export.verification.decoder_reference import DecoderReference
from pocketvlm_export.verification.exact import GateAnswer, judge_answer, judge_vision
from pocketvlm_export.verification.kept import compare_kept
from pocketvlm_export.verification.lost import judge_kept
from pocketvlm_export.verification.oracles import Encoded, Ranking, find_oracle
from pocketvlm_export.verification.pictures import gate_batches
from pocketvlm_export.verification.vision_reference import VisionReference
from support.tiny_artifact import make_dynamic, write_artifact
from support.tiny_graphs import PATCH

SCORES = np.array(
    [[0.4, 0.3, 0.2, 0.1], [0.3, 0.2, 0.2, 0.1]], np.float32
)  # the second picture is tied at the cut
FEATURES = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3) / 10
KEPT = np.array([[0, 1], [0, 1]])
LOGITS = np.random.default_rng(0).normal(size=(STEPS, 7)).astype(np.float32)


def take(values, kept):
    return np.stack([row[at] for row, at in zip(values, kept, strict=True)])


@pytest.fixture
def reference():
    """Of two pictures at a budget of two."""
    rankings = [Ranking(row.astype(np.float64)) for row in SCORES]
    return VisionReference(take(FEATURES, KEPT), KEPT, rankings)


@pytest.fixture
def measure(reference):
    """The gate's figures of a graph that keeps ``kept``, with features and scores changed by
    ``spoil``."""

    def call(kept=KEPT, spoil=lambda features, scores: None, precision="fp32"):
        kept = np.array(kept)
        features, scores = take(FEATURES, kept), take(SCORES, kept)
        spoil(features, scores)
        rows = list(compare_kept(VisionFeatures(features, kept, scores), reference))
        if precision == "fp32":
            return judge_vision(rows, [reference])
        return judge_kept(rows, PRECISIONS[precision].vision)

    return call


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
def test_a_reference_that_is_not_finite_fails(measure, reference, value):
    reference.image_features.flat[-1] = value
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


TOKENS = [int(row.argmax()) for row in LOGITS]


def judged(ours, theirs):
    """Logits before the same tokens."""
    reference = DecoderReference(np.arange(3), TOKENS, theirs, theirs)
    return judge_answer(GateAnswer(TOKENS, ours, prompt_equal=True), reference)


@pytest.mark.parametrize("where", ["ours", "theirs"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail(where, value):
    sides = {"ours": LOGITS.copy(), "theirs": LOGITS.copy()}
    sides[where][3, TOKENS[3] - 1] = value
    assert judged(**sides)["passed"] is False


def test_logits_that_are_close_pass():
    assert judged(LOGITS + 1e-5, LOGITS)["passed"] is True
    assert judged(LOGITS + 1e-2, LOGITS)["passed"] is False


def picks_of(rows):
    projected = np.array(rows, float)
    return find_oracle("divprune")(Encoded([], 0, projected, projected, (2, 2)), {})


def picks(order, tokens=4):
    """Kept indices and the scores that tell the order of picking."""
    order = np.array(order)
    return np.sort(order), (1 - np.argsort(order) / tokens).astype(np.float32)


# Angles of 0, 90, 180 and 190 degrees: 1 is farthest from its nearest, then 3 and 0 are about as
# far from it.
ROWS = [[1, 0], [0, 1], [-1, 0], [-np.cos(np.pi / 18), -np.sin(np.pi / 18)]]


@pytest.mark.parametrize(
    ("order", "distance"),
    [
        ([1, 3, 0], 0),
        (
            [1, 3, 2],
            pytest.approx(1 - (1 - np.cos(np.pi / 18)) / 1, abs=1e-6),
        ),  # 0 lay at distance 1 from both
        (
            [3, 1, 0],
            pytest.approx(1 - (1 - np.cos(np.pi / 18)), abs=1e-6),
        ),  # 1 was farther from its nearest
        ([0, 1, 9], np.inf),
    ],
    ids=str,
)
def test_each_pick_of_divprune_is_judged_by_those_before_it(order, distance):
    kept, scores = picks(order)
    assert picks_of(ROWS).distance(kept, scores) == distance
    assert picks_of(ROWS).score_difference(kept, scores) == pytest.approx(0, abs=1e-7)


def test_two_patches_equally_far_may_be_picked_in_either_order():
    square = picks_of([[1, 0], [0, 1], [-1, 0], [0, -1]])
    for order in ([0, 2, 1], [0, 2, 3], [1, 3, 2], [3, 1, 0]):
        assert square.distance(*picks(order)) == 0, order
    assert square.distance(*picks([0, 1, 2])) == pytest.approx(0.5, abs=1e-6)
    assert square.gap(2) == pytest.approx(0)


def test_scores_of_picks_must_tell_an_order():
    kept, scores = picks([1, 3, 0])
    assert picks_of(ROWS).score_difference(kept, scores * 0.9) > 0.05
    assert np.isnan(picks_of(ROWS).score_difference(kept, np.full_like(scores, np.nan)))


@pytest.mark.parametrize(("offset", "excused"), [(1e-7, True), (1e-3, False)])
def test_an_edge_in_doubt_excuses_what_it_changes_of_gprunes_scores(offset, excused):
    """Three patches alike, the fourth at the threshold; a graph that sees the edge otherwise has
    other scores."""

    def ranking(cosine):
        rows = np.array([[1, 0], [2, 0], [3, 0], [cosine, np.sqrt(1 - cosine**2)]])
        options = {"threshold": 0.5, "temperature": 0.1, "steps": 2}
        return find_oracle("gprune")(Encoded([], 0, rows, rows, (2, 2)), options)

    joined, apart = ranking(0.5 + offset), ranking(0.5 - offset)
    assert np.abs(joined.scores - apart.scores).max() > 0.1
    difference = joined.score_difference(np.arange(4), apart.scores.astype(np.float32))
    assert (difference < 1e-3) is excused


@pytest.mark.parametrize(("tokens", "ragged"), [(40, 35), (35, 35), (30, 15), (6, 6), (4, 2)])
def test_the_gates_pictures_are_no_larger_than_the_artifacts(tmp_path, tokens, ragged):
    weights = write_artifact(tmp_path / "a", budgets=(4,))
    make_dynamic(tmp_path / "a", weights, 4, tokens)
    batches = gate_batches(Artifact.open(tmp_path / "a"), SimpleNamespace(factor=PATCH))
    counted = [rows * columns for rows, columns in (batch.tokens for batch in batches)]
    assert max(counted) <= tokens
    assert counted[1] == ragged
    for batch in batches:
        assert batch.pixel_values.shape[2:] == batch.size
