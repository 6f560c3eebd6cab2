"""A whole artifact whose tower drops patches between its layers: the gate on its graphs, what it
states, and what people read of it."""

import onnx
import pytest
from click.testing import CliRunner

from pocketvlm import Artifact
from pocketvlm.artifact import metadata
from pocketvlm.artifact.stages import Stage
from pocketvlm.cli import main
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export.verification.pictures import gate_pictures

STAGES = (Stage(1, 24, "keys"), Stage(2, 18, "farthest"))


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower") / "artifact"
    arguments = ["export", str(tiny_checkpoint), "-o", str(folder), "--pruner", "fastervlm"]
    stages = ["1:24:keys", "2:18:farthest"]
    arguments += [part for stage in stages for part in ("--tower-stage", stage)]
    arguments += ["--budget", "9,18"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return folder


def test_the_gate_found_nothing(folder):
    manifest = Artifact.open(folder, check="full").manifest
    assert manifest.vision.stages == STAGES
    assert manifest.parity.vision["kept_equal"]
    assert manifest.parity.decoder["greedy_equal"] == 16
    stamps = {
        item.key: item.value
        for item in onnx.load(folder / "onnx" / "vision_encoder.onnx").metadata_props
    }
    assert stamps[metadata.STAGES] == "1:24:keys,2:18:farthest"


def test_a_smaller_budget_is_cut_from_a_larger_one(folder):
    """One of what the last stage leaves keeps all of it."""
    artifact, pixels = Artifact.open(folder), gate_pictures(2, (42, 42))
    small = VisionEncoder.open(artifact, budget=9).encode(pixels)
    large = VisionEncoder.open(artifact, budget=18).encode(pixels)
    assert (large.narrow(9).kept_indices == small.kept_indices).all()
    assert abs(large.narrow(9).image_features - small.image_features).max() < 1e-5


def test_what_people_read(folder):
    card = (folder / "README.md").read_text()
    assert "drops to 24 patches before layer 1 (the first is 0)" in card
    assert "it keeps those whose keys are least like the others'" in card
    assert "drops to 18 patches before layer 2" in card
    shown = CliRunner().invoke(main, ["inspect", str(folder)])
    assert "layers from 2 on of the tower read 18 patches per tile, by farthest" in shown.stdout
