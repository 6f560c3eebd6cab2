"""Features kept between answers: the same ones come back, within bounds, whatever happens to the
files."""

import os

import numpy as np
import pytest

from pocketvlm import VLM, PocketVLMError, Sampling
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.feature_cache import FeatureCache, FeatureLimits, FeatureSource, picture_key
from pocketvlm.vision.features import VisionFeatures

K, HIDDEN = 6, 8
SIZE = K * (HIDDEN * 4 + 12)
SOURCE = FeatureSource("artifact-k6-fp32", K, HIDDEN, nested=True)


def features(seed):
    rng = np.random.default_rng(seed)
    return VisionFeatures(
        rng.normal(size=(1, K, HIDDEN)).astype(np.float32),
        np.sort(rng.permutation(16)[:K])[None].astype(np.int64),
        rng.normal(size=(1, K)).astype(np.float32),
    )


def assert_same(found, expected):
    for name in ("image_features", "kept_indices", "kept_scores"):
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def test_the_key_is_the_content():
    one = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    assert picture_key(one) == picture_key(one.copy())
    assert picture_key(one) != picture_key(one + 1)
    assert picture_key(one.transpose(0, 2, 1)) != picture_key(one)


def test_those_used_longest_ago_go_first():
    cache = FeatureCache(SOURCE, FeatureLimits(memory_bytes=2 * SIZE))
    for number in range(2):
        cache.put(str(number), features(number))
    assert_same(cache.get("0"), features(0))
    cache.put("2", features(2))
    assert cache.get("1") is None
    assert_same(cache.get("0"), features(0))
    assert_same(cache.get("2"), features(2))


def test_nothing_is_kept_beyond_the_bound():
    cache = FeatureCache(SOURCE, FeatureLimits(memory_bytes=SIZE - 1))
    cache.put("a", features(0))
    assert cache.get("a") is None


def test_a_folder_outlives_the_process(tmp_path):
    FeatureCache(SOURCE, folder=tmp_path / "new" / "folder").put("a", features(1))
    found = FeatureCache(SOURCE, folder=tmp_path / "new" / "folder").get("a")
    assert_same(found, features(1))
    assert_same(found.narrow(3), features(1).narrow(3))
    for other in ("artifact-k6-int8", "other-k6-fp32"):
        source = FeatureSource(other, K, HIDDEN, nested=True)
        assert FeatureCache(source, folder=tmp_path / "new" / "folder").get("a") is None


def test_a_damaged_file_is_ignored_and_made_again(tmp_path):
    FeatureCache(SOURCE, folder=tmp_path).put("a", features(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [
        b"",
        whole[:-1],
        whole + b"x",
        b"x" + whole[1:],
        whole[:60] + b"\xff" + whole[61:],
        b"PVLMFEAT1\n",
    ]
    for content in damaged:
        path.write_bytes(content)
        cache = FeatureCache(SOURCE, folder=tmp_path)
        assert cache.get("a") is None
        cache.put("a", features(1))
        assert path.read_bytes() == whole


def test_the_folder_is_bounded_too(tmp_path):
    (tmp_path / "keep.txt").write_text("not ours")
    cache = FeatureCache(
        SOURCE, FeatureLimits(memory_bytes=0, disk_bytes=3 * (SIZE + 100)), tmp_path
    )
    for number in range(3):
        cache.put(str(number), features(number))
        os.utime(tmp_path / f"{SOURCE.name}-{number}.features", (number, number))
    assert_same(cache.get("0"), features(0))  # used now
    cache.put("3", features(3))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"keep.txt", *(f"{SOURCE.name}-{number}.features" for number in (0, 2, 3))}


def test_a_folder_that_cannot_be_made_is_refused_one_that_cannot_be_written_is_not(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(PocketVLMError, match=r"no features can be kept in .*Not a directory"):
        FeatureCache(SOURCE, folder=tmp_path / "file" / "sub")
    cache = FeatureCache(SOURCE, folder=tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    cache.put("a", features(0))
    assert_same(cache.get("a"), features(0))


@pytest.fixture
def encoded(monkeypatch):
    """Counts pictures that go through the vision graph."""
    calls, real = [], VisionEncoder.encode

    def encode(self, pixel_values):
        calls.append(len(pixel_values))
        return real(self, pixel_values)

    monkeypatch.setattr(VisionEncoder, "encode", encode)
    return calls


def test_answers_from_a_folder_equal_those_without(artifact_dir, picture, tmp_path, encoded):
    plain = VLM.load(artifact_dir).generate("what?", [picture], sampling=Sampling(max_new_tokens=6))
    for _ in range(2):
        vlm = VLM.load(artifact_dir, budget=12, feature_cache=tmp_path / "kept")
        for budget in (6, 6, 3):
            answer = vlm.generate(
                "what?", [picture], budget=budget, sampling=Sampling(max_new_tokens=6)
            )
            if budget == 6:
                assert (answer.token_ids, answer.kept_indices) == (
                    plain.token_ids,
                    plain.kept_indices,
                )
    assert len(encoded) == 2  # once without, once for all others


def test_without_a_folder_every_answer_sees_for_itself(vlm, picture, encoded):
    for _ in range(2):
        vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=1))
    assert len(encoded) == 2
