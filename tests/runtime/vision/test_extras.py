"""Further outputs of the vision graph: narrowed, cached and handed to the decoder with the features
that they belong to."""

import numpy as np
import pytest

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, FeatureSource
from support.tiny_artifact import give_extras, read_manifest, write_artifact, write_manifest

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
