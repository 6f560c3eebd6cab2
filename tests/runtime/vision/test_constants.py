"""What no picture changes: a file beside the graphs, checked before it is used."""

import numpy as np
import pytest

from pocketvlm import Artifact, PocketVLMError
from pocketvlm.vision.constants import read_constants
from support.tiny_artifact import read_manifest, write_manifest
from support.tiny_graphs import HIDDEN

VALUES = np.arange(HIDDEN, dtype="<f4") / 7


def give_constant(folder, content, shape=(HIDDEN,)):
    (folder / "constants").mkdir()
    (folder / "constants" / "image_newline.bin").write_bytes(content)
    manifest = read_manifest(folder)
    stated = {"file": "constants/image_newline.bin", "shape": list(shape)}
    manifest["vision"]["constants"] = {"image_newline": stated}
    write_manifest(folder, manifest)


def test_a_constant_is_what_its_file_holds(artifact_dir):
    give_constant(artifact_dir, VALUES.tobytes())
    artifact = Artifact.open(artifact_dir)
    (constant,) = artifact.manifest.vision.constants.values()
    assert constant.shape == (HIDDEN,)
    read = read_constants(artifact)["image_newline"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, VALUES)
    assert artifact.manifest.from_json(artifact.manifest.to_json()) == artifact.manifest


def test_most_artifacts_have_none(artifact_dir):
    assert read_constants(Artifact.open(artifact_dir)) == {}


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (VALUES.tobytes()[:-1], (HIDDEN,)),
        (VALUES.tobytes() + b"0000", (HIDDEN,)),
        (b"", (HIDDEN,)),
        (VALUES.tobytes(), (HIDDEN // 2, 2)),
        (np.tile(VALUES, 2).tobytes(), (2, HIDDEN)),
    ],
)
def test_another_size_than_the_shape_is_refused(artifact_dir, content, shape):
    give_constant(artifact_dir, content, shape)
    with pytest.raises(PocketVLMError, match=r"contradicts itself: .*shape"):
        Artifact.open(artifact_dir)


def test_numbers_that_are_none_are_refused(artifact_dir):
    give_constant(artifact_dir, np.full(HIDDEN, np.nan, "<f4").tobytes())
    with pytest.raises(PocketVLMError, match=r"does not hold image_newline.*finite"):
        read_constants(Artifact.open(artifact_dir))


def test_a_file_cut_after_it_was_checked_is_refused(artifact_dir):
    give_constant(artifact_dir, VALUES.tobytes())
    artifact = Artifact.open(artifact_dir)
    for length in (4 * HIDDEN - 4, 5):
        (artifact_dir / "constants" / "image_newline.bin").write_bytes(VALUES.tobytes()[:length])
        with pytest.raises(PocketVLMError, match=r"image_newline.bin (does not|cannot)"):
            read_constants(artifact)
