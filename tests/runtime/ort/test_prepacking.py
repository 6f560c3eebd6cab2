"""Float graphs opened as mapped files: which graphs, on whose behalf, and that answers stay what
they are."""

import numpy as np
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, EngineSettings
from pocketvlm.cli import main
from pocketvlm.ort import sessions
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import write_artifact


@pytest.fixture
def opened(monkeypatch):
    """The configuration of every session that is opened: whether its weights are prepacked."""
    packed = []
    real = sessions.ort.InferenceSession

    def note(path, options, **arguments):
        session = real(path, options, **arguments)
        try:
            packed.append(
                session.get_session_options().get_session_config_entry("session.disable_prepacking")
                != "1"
            )
        except RuntimeError:  # what was never set
            packed.append(True)
        return session

    monkeypatch.setattr(sessions.ort, "InferenceSession", note)
    return packed


def test_a_process_that_answers_once_does_not_prepack(artifact_dir, opened):
    result = CliRunner().invoke(
        main, ["run", str(artifact_dir), "--prompt", "what?", "--max-new-tokens", "1"]
    )
    assert result.exit_code == 0, result.output
    assert opened.count(False) == 3  # tower, table and decoder


def test_a_loaded_model_does(artifact_dir, opened):
    VLM.load(artifact_dir)
    assert opened.count(False) == 0


@pytest.mark.parametrize(
    ("precision", "packed"), [("fp32", False), ("fp16", True), ("int8", True), ("int4", True)]
)
def test_integers_are_prepacked_in_any_case(precision, packed):
    assert EngineSettings(prepack=False).for_precision(precision).prepack == packed
    assert EngineSettings().for_precision(precision).prepack


def test_features_are_the_same(tmp_path):
    write_artifact(tmp_path / "a")
    artifact = Artifact.open(tmp_path / "a")
    pixels = (
        np.random.default_rng(0)
        .normal(size=(1, 3, *artifact.manifest.vision.image_size))
        .astype(np.float32)
    )
    packed, mapped = (
        VisionEncoder.open(artifact, settings=EngineSettings(prepack=choice)).encode(pixels)
        for choice in (True, False)
    )
    np.testing.assert_array_equal(packed.kept_indices, mapped.kept_indices)
    np.testing.assert_allclose(packed.image_features, mapped.image_features, rtol=1e-5, atol=1e-5)
