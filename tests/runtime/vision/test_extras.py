"""Further outputs of the vision graph: narrowed, cached and handed to the decoder with the features
that they belong to."""

import numpy as np
import pytest

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache
from pocketvlm.vision.feature_source import FeatureSource
from support.tiny_artifact import give_extras, read_manifest, write_artifact, write_manifest
from support.tiny_graphs import HIDDEN, reference_logits

K = 6
EXTRAS = ("deepstack_0", "deepstack_1")


@pytest.fixture
def folder(tmp_path):
    weights = write_artifact(tmp_path / "a", budgets=(K,))
    give_extras(tmp_path / "a", weights, K, EXTRAS)
    return tmp_path / "a"


def assert_belong(features, extras):
    """Those of the tiny graph are 2 and 3 times the features."""
    assert list(extras) == list(EXTRAS)
    for factor, extra in zip((2, 3), extras.values(), strict=True):
        assert extra.dtype == np.float32
        np.testing.assert_array_equal(extra, features * np.float32(factor))


@pytest.mark.parametrize("budget", [K, 4, 1])
@pytest.mark.parametrize("cached", [True, False])
def test_the_decoder_gets_them_beside_the_features(folder, picture, budget, cached):
    viewer = VLM.load(folder).parts.viewer
    for _ in range(2):  # the second time from the cache, where there is one
        (prepared,) = viewer.prepare([picture], budget)
        segment = viewer.encode(prepared, cached=cached)
        assert_belong(segment.inputs_embeds, segment.extras)
        assert len(segment) == budget


def test_the_first_of_a_batch_and_fewer_tokens_keep_theirs(folder):
    encoder = VisionEncoder.open(Artifact.open(folder))
    pixels = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    features = encoder.encode(pixels)
    assert_belong(features.image_features, features.extras)
    first = features.first(2).narrow(3)
    assert first.extras["deepstack_0"].shape == (2, 3, 8)
    assert_belong(first.image_features, first.extras)


def test_a_folder_keeps_them(folder, picture, tmp_path, monkeypatch):
    sampling = Sampling(max_new_tokens=3)
    one = VLM.load(folder, feature_cache=tmp_path / "kept")
    expected = one.generate("what?", [picture], sampling=sampling)
    two = VLM.load(folder, feature_cache=tmp_path / "kept")
    monkeypatch.setattr(VisionEncoder, "encode", None)
    assert two.generate("what?", [picture], sampling=sampling).token_ids == expected.token_ids
    (prepared,) = two.parts.viewer.prepare([picture], 2)
    segment = two.parts.viewer.encode(prepared, cached=True)
    assert_belong(segment.inputs_embeds, segment.extras)


def test_memory_counts_them_and_another_graphs_are_not_read(tmp_path, folder):
    encoder = VisionEncoder.open(Artifact.open(folder))
    features = encoder.encode(np.zeros((1, 3, 16, 16), np.float32))
    with_extras = FeatureSource("a", K, 8, nested=True, extras=EXTRAS)
    FeatureCache(with_extras, folder=tmp_path / "f").put("x", features)
    kept = FeatureCache(with_extras, folder=tmp_path / "f").get("x")
    assert_belong(kept.image_features, kept.extras)
    assert (
        FeatureCache(FeatureSource("a", K, 8, nested=True), folder=tmp_path / "f").get("x") is None
    )


def test_a_part_of_a_picture_has_its_own(folder):
    prompter = VLM.load(folder).parts.prompter
    slot, rows = prompter.image_token_id, np.arange(8, dtype=np.float32).reshape(4, 2)
    whole = EmbeddingSegment(rows, kept=np.array([2, 3, 5, 8]), extras={"deepstack_0": rows * 2})
    ids = np.array([slot, slot, 5, slot, slot])
    first, _, second = prompter.segments(ids, [whole])
    assert (first.kept.tolist(), second.kept.tolist()) == ([2, 3], [5, 8])
    np.testing.assert_array_equal(second.extras["deepstack_0"], rows[2:] * 2)


def test_a_graph_without_one_of_them_is_refused(folder):
    manifest = read_manifest(folder)
    manifest["vision"]["extras"] = [*EXTRAS, "deepstack_2"]
    write_manifest(folder, manifest)
    with pytest.raises(PocketVLMError, match="has no deepstack_2"):
        VLM.load(folder)


@pytest.fixture
def reading(tmp_path):
    """An artifact whose decoder reads them too, and its weights."""
    weights = write_artifact(tmp_path / "reads", budgets=(K,))
    give_extras(tmp_path / "reads", weights, K, EXTRAS, read=EXTRAS)
    return tmp_path / "reads", weights


def noise(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def text(*ids):
    return TokenSegment(np.array(ids, dtype=np.int64))


def rows_of(weights, segments):
    """Embeddings and further features of a whole prompt, (n, hidden) each."""
    parts = [
        [segment.inputs_embeds, *segment.extras.values()]
        if isinstance(segment, EmbeddingSegment)
        else [weights.embed[segment.ids], *np.zeros((2, len(segment), HIDDEN), np.float32)]
        for segment in segments
    ]
    return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


def test_the_decoder_adds_them_at_pictures_and_nothing_at_text(reading):
    folder, weights = reading
    pictures = [
        EmbeddingSegment(embeds, extras=dict(zip(EXTRAS, further, strict=True)))
        for embeds, *further in (noise(3, 4, HIDDEN), noise(3, 2, HIDDEN))
    ]
    prompt = [text(7, 3), pictures[0], text(9), pictures[1], text(11)]
    sequence = VLM.load(folder).parts.decoder.sequence()
    embeds, *further = rows_of(weights, prompt)
    logits = sequence.prefill(prompt)
    np.testing.assert_allclose(logits, reference_logits(weights, embeds, further), atol=2e-3)
    without = reference_logits(weights, embeds)
    assert np.abs(logits - without).max() > 0.1
    prompt.append(text(42))
    embeds, *further = rows_of(weights, prompt)
    expected = reference_logits(weights, embeds, further)
    np.testing.assert_allclose(sequence.decode(42), expected, atol=2e-3)


def test_of_a_cut_picture_the_rest_is_read(reading):
    """Where positions allow a part of a picture its further features are cut as it is."""
    folder, weights = reading
    embeds, *further = noise(3, 4, HIDDEN)
    extras = dict(zip(EXTRAS, further, strict=True))
    picture = EmbeddingSegment(embeds, "a", extras=extras)
    sequence = CachedSequence(VLM.load(folder).parts.decoder.sequence())
    sequence.prefill([text(1, 2), picture])  # its last token is computed again
    logits, cached = sequence.prefill([text(1, 2), picture])
    assert cached == 5
    rows, *more = rows_of(weights, [text(1, 2), picture])
    np.testing.assert_allclose(logits, reference_logits(weights, rows, more), atol=2e-3)


def test_answers_depend_on_them(reading, picture, tmp_path):
    """The same weights without, and fewer tokens of the same graph."""
    folder, weights = reading
    plain = tmp_path / "plain"
    write_artifact(plain, budgets=(K,))
    give_extras(plain, weights, K, EXTRAS)
    sampling = Sampling(max_new_tokens=8)
    for budget in (K, 2):
        with_them, without = (
            VLM.load(each).generate("what?", [picture], sampling=sampling, budget=budget)
            for each in (folder, plain)
        )
        assert with_them.kept_indices == without.kept_indices
        assert with_them.token_ids != without.token_ids


@pytest.mark.parametrize(
    ("extras", "line"),
    [
        ({}, "comes without deepstack_0"),
        ({"deepstack_0": noise(2, HIDDEN)}, "comes without deepstack_1"),
        (dict.fromkeys(EXTRAS, noise(3, HIDDEN)), r"with deepstack_0 of shape \(3, 8\)"),
        (dict.fromkeys(EXTRAS, noise(2, 4)), r"with deepstack_0 of shape \(2, 4\)"),
    ],
)
def test_a_picture_without_what_the_decoder_reads_is_refused(reading, extras, line):
    sequence = VLM.load(reading[0]).parts.decoder.sequence()
    sequence.prefill([text(1)])
    with pytest.raises(PocketVLMError, match=line):
        sequence.prefill([EmbeddingSegment(noise(2, HIDDEN), extras=extras)])
    assert sequence.length == 1


@pytest.mark.parametrize("extras", [["deepstack_2"], ["deepstack_1", "deepstack_2"]])
def test_a_decoder_that_reads_what_no_graph_gives_is_refused(reading, extras):
    manifest = read_manifest(reading[0])
    manifest["decoder"]["extras"] = extras
    write_manifest(reading[0], manifest)
    with pytest.raises(PocketVLMError, match=r"contradicts itself: the decoder reads deepstack_"):
        Artifact.open(reading[0])


def test_a_decoder_graph_without_the_input_is_refused(folder):
    manifest = read_manifest(folder)
    manifest["decoder"]["extras"] = ["deepstack_0"]
    write_manifest(folder, manifest)
    with pytest.raises(PocketVLMError, match="has no deepstack_0"):
        VLM.load(folder)


def test_a_manifest_names_them_only_where_there_are_any(folder, reading):
    with_them, without = (Artifact.open(each).manifest.to_dict() for each in (reading[0], folder))
    assert with_them["decoder"]["extras"] == list(EXTRAS)
    assert "extras" not in without["decoder"]
