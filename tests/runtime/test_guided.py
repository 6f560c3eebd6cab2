"""Two models: the small one answers first. Its confidence against its own logits, who answers, what
is handed over, and pairs that do not go together."""

import numpy as np
import pytest

from pocketvlm import VLM, PocketVLMError, Sampling
from support.tiny_artifact import (
    give_scores,
    write_artifact,
)

PICTURE = np.random.default_rng(4).integers(0, 256, (30, 40, 3), dtype=np.uint8)
BRIEF = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def guide_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("guided") / "small"
    weights = write_artifact(root, seed=1, budgets=(16, 6))
    give_scores(root, weights)
    return root


@pytest.fixture(scope="module")
def plain_dir(tmp_path_factory):
    """A model that drops nothing: a guide may only answer for it."""
    root = tmp_path_factory.mktemp("guided") / "plain"
    write_artifact(root, seed=2, budgets=(16, 6))
    return root


@pytest.fixture(scope="module")
def guide(guide_dir):
    return VLM.load(guide_dir)


@pytest.fixture(scope="module")
def plain(plain_dir):
    return VLM.load(plain_dir)


def confidence_of(vlm, answer, question):
    """The product of the tokens' probabilities, from the logits of each step by themselves."""
    request = vlm.prepare(question, [PICTURE])
    (feature,) = (vlm.parts.viewer.encode(picture, cached=False) for picture in request.pictures)
    ids = vlm.parts.prompter.place(request.ids, [picture.ids for picture in request.pictures])
    sequence = vlm.parts.decoder.sequence()
    rows = [sequence.prefill(vlm.parts.prompter.segments(ids, [feature]))]
    rows += [sequence.decode(token) for token in answer.token_ids[:-1]]
    logits = np.stack(rows).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.prod(shares[np.arange(len(rows)), answer.token_ids])


def test_the_guide_answers_where_it_is_sure_enough(guide, plain):
    own = guide.generate("what?", [PICTURE], sampling=BRIEF)
    sure = confidence_of(guide, own, "what?")
    assert 0 < sure < 1
    for least, by in ((sure * 0.99, "guide"), (sure * 1.01, "model"), (0, "guide")):
        answer = plain.guided_by(guide, confidence=least).generate(
            "what?", [PICTURE], sampling=BRIEF
        )
        assert answer.answered_by == by
        assert answer.confidence == pytest.approx(sure, rel=1e-6)
        assert answer.guide.token_ids == own.token_ids
        expected = own if by == "guide" else plain.generate("what?", [PICTURE], sampling=BRIEF)
        assert (answer.token_ids, answer.text) == (expected.token_ids, expected.text)
        waited = answer.guide.timings_ms["total"]
        assert answer.timings_ms["total"] >= answer.timings_ms["ttft"] >= waited > 0


def test_an_answer_that_sampling_draws_needs_no_guide_that_answers(guide, plain):
    drawn = Sampling(max_new_tokens=4, temperature=1.0, seed=3)
    with pytest.raises(PocketVLMError, match="at temperature 1 another would be drawn"):
        plain.guided_by(guide, confidence=0.5).generate("what?", [PICTURE], sampling=drawn)


def test_a_stream_gives_the_guides_answer_whole(guide, plain):
    stream = plain.guided_by(guide, confidence=0).stream("what?", [PICTURE], sampling=BRIEF)
    pieces = list(stream)
    assert len(pieces) <= 1
    assert "".join(pieces) == stream.answer.text


def test_a_stream_that_is_stopped(guide, plain):
    stream = plain.guided_by(guide, confidence=1).stream("what?", [PICTURE])
    stream.stop()
    assert stream.answer.finish_reason == "interrupted"
    assert stream.answer.answered_by == "guide"
    stream = plain.guided_by(guide, confidence=1).stream("what?", [PICTURE])
    next(stream)
    stream.close()
    assert plain.cache_bytes == guide.cache_bytes == 0


@pytest.mark.parametrize(
    ("confidence", "message"),
    [(1.5, "outside 0..1"), (float("nan"), "outside 0..1"), ("high", "type str"), (True, "bool")],
)
def test_a_confidence_that_is_none(guide, plain, confidence, message):
    with pytest.raises(PocketVLMError, match=message):
        plain.guided_by(guide, confidence=confidence)


def test_a_guide_that_decides_nothing(guide, plain):
    with pytest.raises(PocketVLMError, match=r"plain drops no visual tokens .* --decoder-stage"):
        plain.guided_by(guide)
