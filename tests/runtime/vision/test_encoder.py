"""The vision graph and its narrowing, against numpy and against graphs exported at the smaller
budget."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm import Artifact, PocketVLMError
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.features import VisionFeatures
from support.tiny_artifact import read_manifest, write_artifact, write_manifest
from support.tiny_graphs import IMAGE, PATCHES, reference_vision


@pytest.fixture
def pixel_values():
    return np.random.default_rng(4).normal(size=(3, 3, IMAGE, IMAGE)).astype(np.float32)


@given(st.data())
def test_narrow_takes_the_best_with_ties_to_the_lower_index_in_raster_order(data):
    k = data.draw(st.integers(1, 20))
    batch = data.draw(st.integers(1, 3))
    budget = data.draw(st.integers(1, k))
    indices = np.stack(
        [np.sort(np.random.default_rng(b).choice(50, k, replace=False)) for b in range(batch)]
    )
    scores = np.array(
        data.draw(st.lists(st.integers(0, 4), min_size=batch * k, max_size=batch * k)), np.float32
    )
    scores = scores.reshape(batch, k)
    values = np.arange(batch * k * 2, dtype=np.float32).reshape(batch, k, 2)
    narrow = VisionFeatures(values, indices, scores).narrow(budget)
    for row in range(batch):
        best = sorted(range(k), key=lambda i: (-scores[row, i], indices[row, i]))[:budget]
        expected = sorted(best, key=lambda i: indices[row, i])
        assert narrow.kept_indices[row].tolist() == indices[row, expected].tolist()
        assert narrow.kept_scores[row].tolist() == scores[row, expected].tolist()
        assert narrow.image_features[row].tolist() == values[row, expected].tolist()
    assert narrow.budget == budget


def test_the_graph_equals_numpy(tmp_path, pixel_values):
    weights = write_artifact(tmp_path / "a", budgets=(5,))
    encoded = VisionEncoder.open(Artifact.open(tmp_path / "a")).encode(pixel_values)
    assert (encoded.kept_indices.dtype, encoded.kept_scores.dtype) == (np.int64, np.float32)
    for row, pixels in enumerate(pixel_values):
        features, indices = reference_vision(weights, pixels, 5)
        assert encoded.kept_indices[row].tolist() == indices.tolist()
        np.testing.assert_allclose(encoded.image_features[row], features, atol=1e-4)


@pytest.mark.parametrize("budget", range(1, PATCHES))
def test_narrowing_equals_a_graph_exported_at_that_budget(tmp_path, pixel_values, budget):
    write_artifact(tmp_path / "a", budgets=(PATCHES, budget))
    artifact = Artifact.open(tmp_path / "a", "sizes")
    narrowed = VisionEncoder.open(artifact, budget=PATCHES).encode(pixel_values).narrow(budget)
    exported = VisionEncoder.open(artifact, budget=budget).encode(pixel_values)
    assert narrowed.budget == exported.budget == budget
    np.testing.assert_array_equal(narrowed.kept_indices, exported.kept_indices)
    np.testing.assert_array_equal(narrowed.kept_scores, exported.kept_scores)
    np.testing.assert_array_equal(narrowed.image_features, exported.image_features)


def test_the_smallest_graph_that_serves_a_budget_is_opened(artifact_dir):
    artifact = Artifact.open(artifact_dir)
    served = {
        budget: VisionEncoder.open(artifact, budget=budget).budget
        for budget in (None, 1, 5, 6, 7, 12)
    }
    assert served == {None: 6, 1: 6, 5: 6, 6: 6, 7: 12, 12: 12}
    for budget, reason in (
        (13, "not in this artifact"),
        (0, r"expected 1\.\.12"),
        (-4, "expected"),
        (17, "expected"),
    ):
        with pytest.raises(PocketVLMError, match=f"budget {budget}\\b.*{reason}"):
            VisionEncoder.open(artifact, budget=budget)


@pytest.mark.parametrize(
    "pruning", [{"method": "none", "nested": False}, {"method": "vispruner", "nested": False}]
)
def test_methods_that_are_not_nested_refuse_other_budgets(tmp_path, pixel_values, pruning):
    write_artifact(tmp_path / "a", budgets=(PATCHES,), **pruning)
    artifact = Artifact.open(tmp_path / "a")
    encoder = VisionEncoder.open(artifact, budget=PATCHES)
    features = encoder.encode(pixel_values)
    assert features.narrow(PATCHES) is features
    with pytest.raises(PocketVLMError, match="not nested"):
        features.narrow(3)
    with pytest.raises(PocketVLMError, match=f"serves {PATCHES} of {PATCHES}"):
        VisionEncoder.open(artifact, budget=3)
    with pytest.raises(PocketVLMError, match="16 only"):
        encoder.check_budget(3)


def test_budgets_beyond_the_graph_are_refused():
    features = VisionFeatures(
        np.zeros((1, 4, 2), np.float32), np.arange(4)[None], np.zeros((1, 4), np.float32)
    )
    for budget in (0, -1, 5):
        with pytest.raises(PocketVLMError, match=rf"budget {budget}: expected 1\.\.4"):
            features.narrow(budget)


def test_an_unknown_precision_is_refused_with_those_there_are(artifact_dir):
    with pytest.raises(PocketVLMError, match="no precision 'int8': expected one of fp32"):
        VisionEncoder.open(Artifact.open(artifact_dir), precision="int8")


def test_pixels_of_another_size_are_refused_in_one_line(artifact_dir):
    with pytest.raises(PocketVLMError, match="the vision graph failed"):
        VisionEncoder.open(Artifact.open(artifact_dir)).encode(np.zeros((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("section", "key", "value", "reason"),
    [
        ("vision", "image_size", [16, 20], r"pixel_values of shape .*says \(any, 3, 16, 20\)"),
        ("decoder", "hidden", 9, r"image_features of shape .*says \(any, 6, 9\)"),
    ],
)
def test_a_graph_of_other_sizes_than_the_manifest_says_is_refused(
    artifact_dir, section, key, value, reason
):
    data = read_manifest(artifact_dir)
    data[section][key] = value
    write_manifest(artifact_dir, data)
    with pytest.raises(PocketVLMError, match=reason):
        VisionEncoder.open(Artifact.open(artifact_dir))


def test_a_graph_that_keeps_another_number_of_tokens_than_it_says_is_refused(artifact_dir):
    paths = [
        artifact_dir / "onnx" / name for name in ("vision_encoder.onnx", "vision_encoder.k12.onnx")
    ]
    stamped, other = (onnx.load(path) for path in paths)
    del other.metadata_props[:]
    other.metadata_props.extend(stamped.metadata_props)
    onnx.save(other, paths[0])
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(
        PocketVLMError, match=r"\(batch_size, 12, 8\), the manifest says \(any, 6, 8\)"
    ):
        VisionEncoder.open(Artifact.open(artifact_dir))
