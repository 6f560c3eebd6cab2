"""Which tokens see each other: held against numpy on whole sequences, in one run and in many, with
caches that are cut anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.artifact.manifest import Manifest
from pocketvlm.artifact.specs import ATTENTIONS
from pocketvlm.decoders.attention import picture_ids, seen_both_ways
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.onnx import OnnxDecoder
from pocketvlm.decoders.positions import positions_named
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm.decoders.track import Track
from pocketvlm.errors import ArtifactError
from support.noise import picture
from support.tiny_artifact import give_attention, read_manifest, write_artifact, write_manifest
from support.tiny_graphs import HIDDEN, reference_logits


class Opened:
    """A tiny artifact in which tokens see each other, with what numpy makes of its weights."""

    def __init__(self, root, attention):
        self.root, self.attention = root, attention
        self.weights = write_artifact(root, budgets=(6, 12))
        give_attention(root, self.weights, attention)
        self.decoder = OnnxDecoder.open(Artifact.open(root))

    def rows(self, segments):
        """Embeddings of all tokens."""
        return np.concatenate(
            [
                each.inputs_embeds
                if isinstance(each, EmbeddingSegment)
                else self.weights.embed[each.ids]
                for each in segments
            ]
        )

    def expected(self, segments):
        """Logits after a whole sequence, all of it read at once."""
        numbers = []
        for number, each in enumerate(segments, 1):
            is_picture = isinstance(each, EmbeddingSegment)
            own = number if self.attention == "pictures" and is_picture else 0
            numbers += [1 if self.attention == "prompt" else own] * len(each)
        return reference_logits(self.weights, self.rows(segments), numbers=np.array(numbers))


@pytest.fixture(scope="module", params=["pictures", "prompt"])
def opened(request, tmp_path_factory):
    return Opened(tmp_path_factory.mktemp("two-way") / "a", request.param)


@pytest.fixture(scope="module")
def pictures_opened(tmp_path_factory):
    return Opened(tmp_path_factory.mktemp("pictures") / "a", "pictures")


def text(*ids):
    return TokenSegment(np.array(ids, dtype=np.int64))


def features(count, seed=0, **more):
    rows = np.random.default_rng(seed).normal(size=(count, HIDDEN)).astype(np.float32)
    return EmbeddingSegment(rows, key=f"{seed}", **more)


PROMPT = [text(3, 4), features(5, 1), text(6), features(4, 2), text(7, 8, 9)]


def test_a_prompt_is_what_numpy_makes_of_it(opened):
    sequence = opened.decoder.sequence()
    logits = sequence.prefill(PROMPT)
    np.testing.assert_allclose(logits, opened.expected(PROMPT), atol=2e-3)
    causal = reference_logits(opened.weights, opened.rows(PROMPT))
    assert np.abs(logits - causal).max() > 0.01


def test_tokens_of_an_answer_see_what_comes_before_them(pictures_opened):
    sequence = pictures_opened.decoder.sequence()
    sequence.prefill(PROMPT)
    for number, token in enumerate((5, 6, 7), 1):
        logits = sequence.decode(token)
        expected = pictures_opened.expected([*PROMPT, text(*(5, 6, 7)[:number])])
        np.testing.assert_allclose(logits, expected, atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 25), min_size=1, max_size=3),
)
def test_a_cache_cut_anywhere_is_a_shorter_prompts(pictures_opened, lengths, cuts):
    """A length inside a picture goes back to its beginning: what a part of it left in the cache
    holds for the whole alone."""
    prompt = [
        features(n, number) if number % 2 else text(*range(3, 3 + n))
        for number, n in enumerate(lengths)
    ]
    prompt = [*prompt, text(9)]
    whole = pictures_opened.expected(prompt)
    cached = CachedSequence(pictures_opened.decoder.sequence())
    cached.prefill(prompt)
    for cut in cuts:
        cached.sequence.keep(min(cut, cached.sequence.length))
        ends = np.cumsum([0, *map(len, prompt)])
        inside = [
            start
            for start, end, each in zip(ends, ends[1:], prompt, strict=False)
            if isinstance(each, EmbeddingSegment) and start < cut < end
        ]
        assert cached.sequence.length <= cut
        if inside:
            assert cached.sequence.length <= inside[0]
        logits, reused = cached.prefill(prompt)
        assert reused <= cut
        np.testing.assert_allclose(logits, whole, atol=2e-3)


def test_a_picture_is_reused_whole_or_not_at_all(pictures_opened):
    cached = CachedSequence(pictures_opened.decoder.sequence())
    first = [text(3), features(5, 1)]
    cached.prefill(first)  # the last token is a picture's, and is computed again with all of it
    logits, reused = cached.prefill(first)
    assert reused == 1
    np.testing.assert_allclose(logits, pictures_opened.expected(first), atol=2e-3)
    logits, reused = cached.prefill([*first, text(8)])
    assert reused == 6
    np.testing.assert_allclose(logits, pictures_opened.expected([*first, text(8)]), atol=2e-3)


def test_nothing_of_a_whole_prompt_is_reused(tmp_path):
    opened = Opened(tmp_path / "a", "prompt")
    cached = CachedSequence(opened.decoder.sequence())
    for prompt in (PROMPT, PROMPT, [*PROMPT, text(5)]):
        logits, reused = cached.prefill(prompt)
        assert reused == 0
        np.testing.assert_allclose(logits, opened.expected(prompt), atol=2e-3)
        cached.decode(5)
        assert cached.sequence.length == sum(map(len, prompt)) + 1
    sequence = opened.decoder.sequence()
    sequence.prefill(PROMPT)
    sequence.keep(sequence.length)
    assert sequence.length == 0


@pytest.mark.parametrize(("attention", "reused"), [("pictures", True), ("prompt", False)])
def test_answers_say_what_they_reused(tmp_path, attention, reused):
    weights = write_artifact(tmp_path / "a")
    give_attention(tmp_path / "a", weights, attention)
    chat = VLM.load(tmp_path / "a").chat()
    few = Sampling(max_new_tokens=3)
    chat.ask("what?", [picture(20, 30)], sampling=few)
    second = chat.ask("which?", sampling=few)
    assert (second.prompt_tokens["cached"] > 0) is reused


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_numbers_of_a_run(attention):
    numbers = seen_both_ways(PROMPT, attention).tolist()
    expected = {
        "causal": [0] * 15,
        "pictures": [0] * 2 + [1] * 5 + [0] + [2] * 4 + [0] * 3,
        "prompt": [1] * 15,
    }
    assert numbers == expected[attention]
    assert seen_both_ways([text(5)], attention).tolist() == [0]


def test_parts_of_a_picture_have_one_number():
    parts = [features(2), text(3), features(3, continues=True), features(1, 4)]
    assert picture_ids(parts).tolist() == [1, 1, 0, 1, 1, 1, 2]


def test_a_cut_of_a_prompt_that_is_read_at_once_leaves_nothing():
    _, track = Track(positions_named("contiguous"), "prompt").extended(PROMPT)
    assert track.end.length == 15
    assert [track.cut(length).end.length for length in (0, 4, 15, 99)] == [0, 0, 0, 0]


def test_a_graph_that_is_not_told_is_refused(tmp_path):
    """The manifest says that pictures are seen whole, and the graph has no such input."""
    write_artifact(tmp_path / "a")
    data = read_manifest(tmp_path / "a")
    data["decoder"]["attention"] = "pictures"
    write_manifest(tmp_path / "a", data)
    with pytest.raises(ArtifactError, match="has no picture_ids"):
        OnnxDecoder.open(Artifact.open(tmp_path / "a"))


@pytest.mark.parametrize("damage", ["sideways", "", 3, None])
def test_attention_that_nobody_knows_is_refused(tmp_path, damage):
    write_artifact(tmp_path / "a")
    data = read_manifest(tmp_path / "a")
    data["decoder"]["attention"] = damage
    with pytest.raises(ArtifactError, match="attention"):
        Manifest.from_dict(data)


def test_the_usual_is_not_said(tmp_path):
    """So that manifests of other models stay what they were."""
    write_artifact(tmp_path / "a")
    data = read_manifest(tmp_path / "a")
    assert "attention" not in Manifest.from_dict(data).to_dict()["decoder"]
    assert "picture_text" not in Manifest.from_dict(data).to_dict()["decoder"]
    data["decoder"] |= {
        "attention": "pictures",
        "picture_text": {"placeholder": "<a>", "text": "<b>"},
    }
    assert Manifest.from_dict(data).to_dict()["decoder"] == {
        **Manifest.from_dict(data).to_dict()["decoder"],
        "attention": "pictures",
        "picture_text": {"placeholder": "<a>", "text": "<b>"},
    }
