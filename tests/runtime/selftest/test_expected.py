"""The file of a self-test: what is written is read back exactly, and a hostile one is refused in
one line."""

import json

import numpy as np
import pytest
from PIL import Image

from pocketvlm import VLM, Artifact
from pocketvlm.artifact import Manifest
from pocketvlm.errors import ArtifactError
from pocketvlm.selftest import run_self_test
from pocketvlm.selftest.form import to_json
from pocketvlm.selftest.reading import read_expected
from support.self_tests import OTHER, alter
from support.tiny_artifact import read_manifest, write_artifact, write_manifest


def test_numbers_are_read_back_as_they_were_written(tested_dir):
    artifact = Artifact.open(tested_dir)
    expected = read_expected(artifact)
    text = (tested_dir / "selftest/image.json").read_text()
    assert to_json(expected) == text
    logits = json.loads(text)["decoder"]["logits"]["values"]
    assert np.array_equal(np.array(logits), expected.answer.logits.values.astype(np.float64)) or (
        np.array_equal(np.float32(logits), expected.answer.logits.values)
    )


def batch(data):
    return data["vision"][0]["batches"][0]


def put(path, value):
    """A change that sets what lies at a path of keys."""

    def change(data):
        *above, last = path
        for key in above:
            data = data[key]
        data[last] = value

    return change


SAMPLES = ("vision", 0, "batches", 0, "samples")
FEATURES = (*SAMPLES, "image_features")
BOUNDS = ("vision", 0, "bounds", "fp32")
HOSTILE = {
    "no version": lambda data: data.pop("version"),
    "another version": put(("version",), 2),
    "not a number": put((*FEATURES, "values", 0, 0), float("nan")),
    "infinity": put((*FEATURES, "values", 0, 0), float("inf")),
    "too large for float32": put((*FEATURES, "values", 0, 0), 1e300),
    "a text": put((*FEATURES, "values", 0, 0), "1"),
    "a truth value": put((*FEATURES, "values", 0, 0), None),
    "largest not a number": put((*FEATURES, "largest"), float("nan")),
    "fewer rows": lambda data: batch(data)["samples"]["image_features"]["values"].pop(),
    "ragged rows": lambda data: batch(data)["samples"]["image_features"]["values"][0].pop(),
    "an output is missing": lambda data: batch(data)["samples"].pop("kept_scores"),
    "another output": lambda data: batch(data)["samples"].update(
        x=batch(data)["samples"]["kept_scores"]
    ),
    "an index that is not a patch's": put(("vision", 0, "batches", 0, "kept_indices", 0, -1), 16),
    "a negative index": put(("vision", 0, "batches", 0, "kept_indices", 0, 0), -1),
    "a huge index": put(("vision", 0, "batches", 0, "kept_indices", 0, 0), 1 << 70),
    "indices that do not rise": lambda data: batch(data)["kept_indices"][0].reverse(),
    "more than the budget": lambda data: batch(data).update(kept_indices=[list(range(16))]),
    "more tiles": lambda data: batch(data)["kept_indices"].append(batch(data)["kept_indices"][0]),
    "a tile that is not there": put(("vision", 0, "batches", 0, "rows", 0, 0), 1),
    "a row that is not kept": put(("vision", 0, "batches", 0, "rows", 0, 1), 1000),
    "a feature that is not there": put(("vision", 0, "batches", 0, "columns", 0), 8),
    "a bound above one": put((*BOUNDS, "cosine"), 1.5),
    "a bound below zero": put((*BOUNDS, "difference"), -0.1),
    "a bound that is not a number": put((*BOUNDS, "kept_overlap"), float("nan")),
    "no bounds of a precision": put(("vision", 0, "bounds"), {}),
    "no bounds of a decoder": put(("decoder", "bounds"), []),
    "a budget is missing": lambda data: data["vision"].pop(),
    "a token beyond the vocabulary": put(("decoder", "token_ids", 0), 100_000),
    "a logit beyond the vocabulary": put(("decoder", "columns", 0), 100_000),
    "more steps than logits": lambda data: data["decoder"]["token_ids"].append(1),
    "a prompt without a picture": put(("prompt_ids",), [1, 2, 3]),
    "a prompt with two": lambda data: data["prompt_ids"].extend(data["prompt_ids"]),
    "attention of a decoder that does not say": lambda data: data["decoder"].update(
        attention={"values": [[1.0]], "largest": 1.0}, attended=[0]
    ),
    "no prompt": put(("prompt_ids",), []),
    "a grid of tiles": put(("grid", "columns"), 2),
    "a huge grid": put(("grid",), {"rows": 4096, "columns": 4096}),
    "a grid of another kind": put(("grid", "whole"), "first"),
    "a grid of no whole number": put(("grid", "rows"), 1.5),
    "two sizes of tiles": put(("grid", "whole_tokens"), [2, 2]),
    "a list": put(("vision",), {}),
    "many numbers": put((*FEATURES, "values"), [[0] * 100] * 257),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_self_test_is_refused_in_one_line(change, tested_dir):
    alter(tested_dir, HOSTILE[change])
    with pytest.raises(ArtifactError) as refusal:
        run_self_test(Artifact.open(tested_dir))
    line = str(refusal.value)
    assert "\n" not in line
    assert len(line) < 600
    assert "export it again" in line


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"version": 1, "a": 1e'])
def test_text_that_is_no_self_test(text, tested_dir):
    (tested_dir / "selftest/image.json").write_text(text)
    write_manifest(tested_dir, read_manifest(tested_dir))
    with pytest.raises(ArtifactError, match="self-test"):
        run_self_test(Artifact.open(tested_dir))


def test_a_file_beyond_the_limit_is_not_read(tested_dir):
    path = tested_dir / "selftest/image.json"
    path.write_text(path.read_text() + " " * (1 << 20))
    write_manifest(tested_dir, read_manifest(tested_dir))
    with pytest.raises(ArtifactError, match="at most 1048576"):
        run_self_test(Artifact.open(tested_dir))


@pytest.mark.parametrize("size", [(16, 15), (16, 32), (8, 8), (5000, 5000)])
def test_a_picture_of_another_size(size, tested_dir):
    Image.new("RGB", size).save(tested_dir / "selftest/image-0.png")
    write_manifest(tested_dir, read_manifest(tested_dir))
    with pytest.raises(ArtifactError, match=r"tiles of its self-test|self-test is damaged"):
        run_self_test(Artifact.open(tested_dir))


def test_a_picture_that_is_none(tested_dir):
    (tested_dir / "selftest/image-0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_manifest(tested_dir, read_manifest(tested_dir))
    with pytest.raises(ArtifactError, match="the picture of a self-test is damaged"):
        run_self_test(Artifact.open(tested_dir))


@pytest.mark.parametrize("missing", ["selftest/image.json", "selftest/image-0.png"])
def test_a_file_that_is_not_there(missing, tested_dir):
    (tested_dir / missing).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact.open(tested_dir)
    write_manifest(tested_dir, read_manifest(tested_dir))
    with pytest.raises(ArtifactError, match="a file of its self-test is missing"):
        Artifact.open(tested_dir)


def test_pictures_for_other_sizes_than_there_are(tested_dir):
    data = read_manifest(tested_dir)
    data["self_test"]["pictures"] *= 2
    write_manifest(tested_dir, data)
    with pytest.raises(ArtifactError, match="self-test"):
        run_self_test(Artifact.open(tested_dir))


def test_an_artifact_without_one_is_for_the_cpu_alone(tmp_path):
    write_artifact(tmp_path / "old")
    VLM.load(tmp_path / "old")
    with pytest.raises(ArtifactError, match=r"has no self-test.*export it again"):
        VLM.load(tmp_path / "old", settings=OTHER)
    assert "self_test" not in Artifact.open(tmp_path / "old").manifest.to_dict()


def test_the_manifest_is_written_as_it_was_read(tested_dir):
    manifest = Artifact.open(tested_dir).manifest
    assert type(manifest).from_json(manifest.to_json()) == manifest
    assert manifest.self_test.pictures == ("selftest/image-0.png",)


def test_a_second_medium_states_its_own(tested_dir):
    data = read_manifest(tested_dir)
    parts = {name: data[name] for name in ("pruning", "vision", "parity")}
    data["media"] = {"video": {"image_token_id": 1, **parts}}
    manifest = Manifest.from_dict(data)
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert manifest.reading("video").self_test is None
    data["media"]["video"]["self_test"] = {"file": "selftest/image.json", "pictures": ["no.png"]}
    with pytest.raises(ArtifactError, match="a file of its self-test is missing"):
        Manifest.from_dict(data)
    data["media"]["video"]["self_test"] = data["self_test"]
    manifest = Manifest.from_dict(data)
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert manifest.reading("video").self_test == manifest.self_test
