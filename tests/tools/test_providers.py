"""Vision graphs under several execution providers: the program that computes one, and the table."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmark.interleave import Spread
from benchmark.providers import ENVIRONMENTS, candidates, table
from compare_peers.worker import Worker
from pocketvlm import Artifact
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import write_artifact


def test_a_program_gives_what_the_runtime_gives(tmp_path):
    folder = tmp_path / "artifact"
    write_artifact(folder, budgets=(6,))
    artifact = Artifact.open(folder)
    height, width = artifact.manifest.vision.image_size
    pixels = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    own = candidates(threads=1)[0]
    settings = {
        "graph": str(artifact.path(artifact.manifest.vision.graphs[6]["fp32"])),
        "threads": 1,
        "results": str(tmp_path / "results.npz"),
        **own.settings,
    }
    with Worker("tower", Path(sys.executable), "with_tower", settings) as worker:
        report = worker.ask(tmp_path / "pixels.npy")
        assert "CPUExecutionProvider" in worker.version
    assert report["ttft"] > 0
    expected = VisionEncoder.open(artifact).encode(pixels)
    with np.load(tmp_path / "results.npz") as results:
        np.testing.assert_array_equal(results["kept_indices"], expected.kept_indices)
        np.testing.assert_allclose(results["image_features"], expected.image_features, rtol=1e-5)


def test_each_module_of_onnxruntime_has_an_environment_of_its_own():
    for candidate in candidates(threads=2):
        owners = [
            name for name in ENVIRONMENTS[candidate.environment] if name.startswith("onnxruntime")
        ]
        assert len(owners) <= 1


def test_rows_are_held_against_the_first():
    random = np.random.default_rng(0)
    features = random.normal(size=(1, 4, 8)).astype(np.float32)
    first = {"image_features": features, "kept_indices": np.array([[1, 3, 5, 7]])}
    other = {"image_features": features.copy(), "kept_indices": np.array([[1, 3, 5, 8]])}
    other["image_features"][0, 3] = 1000  # of a patch that the first does not keep
    spreads = {
        name: {"vision": Spread([ms]), "peak_mb": Spread([mb])}
        for name, ms, mb in (("a", 10.0, 100.0), ("b", 5.0, 50.0))
    }
    _, _, one, two = table(spreads, [first, other])
    cells = [cell.strip() for cell in two.split("|")[1:-1]]
    assert [cells[0], *cells[2:]] == ["b", "0.50x", "50", "0.75", "1.0000"]
    assert "1.00x" in one
    with pytest.raises(ValueError, match="zip"):
        table(spreads, [first])
