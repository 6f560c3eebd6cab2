"""The folder of a choice: it answers as the larger one does when asked for the choice, holds
nothing else, and appears whole or not at all."""

import json
import os
from dataclasses import replace

import pytest

from pocketvlm import VLM, Sampling
from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm_measure.cases import Case
from pocketvlm_measure.tune.reduced import check_output, reduced_manifest, write_reduced
from support.tiny_artifact import give_gguf, give_selectors, read_manifest, write_artifact
from support.tunings import write_several

CHOICE = Case(6, "onnx", "int8", "int8")


@pytest.fixture
def several(tmp_path):
    return write_several(tmp_path)


def answer(vlm, picture):
    return vlm.generate("what?", [picture], sampling=Sampling(max_new_tokens=6)).token_ids


def loaded(folder, case):
    return VLM.load(
        folder,
        budget=case.budget,
        decoder_precision=case.decoder_precision,
        vision_precision=case.vision_precision,
    )


@pytest.mark.parametrize(
    "case", [CHOICE, replace(CHOICE, vision_precision="fp32"), Case(3, "onnx", "fp32", "fp32")]
)
def test_it_answers_as_chosen_without_being_asked(several, tmp_path, picture, case):
    manifest = write_reduced(Artifact.open(several), case, tmp_path / "small")
    assert Artifact.open(tmp_path / "small", "full").manifest == manifest
    own, whole = VLM.load(tmp_path / "small"), loaded(several, case)
    assert answer(own, picture) == answer(whole, picture)
    assert (own.budget, own.artifact.manifest.artifact_id) == (
        case.budget,
        read_manifest(several)["artifact_id"],
    )


def test_nothing_is_left_that_it_does_not_read(several, tmp_path):
    small = tmp_path / "small"
    write_reduced(Artifact.open(several), CHOICE, small)
    files = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.is_file()}
    graphs = {name for name in files if name.startswith("onnx/")}
    assert graphs == {
        "onnx/vision_encoder_quantized.k6.onnx",
        "onnx/vision_encoder_quantized.k6.onnx_data",
        "onnx/decoder_model_merged_quantized.onnx",
        "onnx/decoder_model_merged_quantized.onnx_data",
        "onnx/embed_tokens.onnx",
    }
    assert "USING.md" not in files  # it is about graphs that are not there
    assert (small / "README.md").read_text() == "about the model"
    data = read_manifest(small)
    assert data["pruning"]["budgets"] == [6]
    assert data["vision"]["totals"] == {"6": {"1x1": 6}}
    assert set(data["parity"]["by_precision"]) == {"int8"}
    assert set(data["files"]) == files - {"README.md", "pocketvlm.json"}


def test_a_pair_of_precisions_keeps_both(several):
    case = replace(CHOICE, decoder_precision="int8+fp32")
    manifest = reduced_manifest(Artifact.open(several), case)
    assert set(manifest.decoder.graphs) == {"int8", "fp32"}
    assert manifest.decoder.default_precisions == {"onnx": "int8"}


def test_selectors_and_their_table_come_along(tmp_path, picture):
    root = tmp_path / "asks"
    weights = write_artifact(root, budgets=(12, 6))
    give_selectors(root, weights, (12, 6))
    case = Case(6, "onnx", "fp32", "fp32")
    write_reduced(Artifact.open(root), case, tmp_path / "small")
    assert answer(VLM.load(tmp_path / "small"), picture) == answer(loaded(root, case), picture)


def test_a_folder_for_llama_cpp_needs_no_table(tmp_path):
    pytest.importorskip("gguf")
    root = tmp_path / "llama"
    write_artifact(root, budgets=(12, 6))
    give_gguf(root)
    case = Case(6, "llama.cpp", "f32", "fp32")
    manifest = reduced_manifest(Artifact.open(root), case)
    assert manifest.decoder.engines == ("llama.cpp",)
    assert not any("embed" in name or "merged" in name for name in manifest.files)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (replace(CHOICE, budget=5), "--budget 5"),
        (replace(CHOICE, max_tiles=2), "--max-tiles 2"),
        (replace(CHOICE, max_pixels=64), "--max-pixels 64"),
    ],
)
def test_what_needs_the_checkpoint_is_refused_with_what_to_do(several, tmp_path, case, words):
    with pytest.raises(RequestError, match=words) as caught:
        write_reduced(Artifact.open(several), case, tmp_path / "small")
    assert "export the checkpoint again" in str(caught.value)
    assert not (tmp_path / "small").exists()


def test_what_is_there_stays(several, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, words in (("full", "not empty"), ("file", "is a file"), ("no/where", "no folder")):
        with pytest.raises(RequestError, match=words):
            write_reduced(Artifact.open(several), CHOICE, tmp_path / name)
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write_reduced(Artifact.open(several), CHOICE, tmp_path / "empty")
    assert VLM.load(tmp_path / "empty").budget == 6
    with pytest.raises(RequestError, match="not empty"):
        check_output(tmp_path / "empty")


def test_a_file_that_was_altered_leaves_nothing(several, tmp_path):
    artifact = Artifact.open(several)
    path = several / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<s>", "<S>"))
    with pytest.raises(ArtifactError, match="altered"):
        write_reduced(artifact, CHOICE, tmp_path / "small")
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"several"}


def test_a_kill_leaves_no_artifact_and_the_next_run_clears_up(several, tmp_path):
    pid = os.fork()
    if pid == 0:  # the copy ends at its last step, before the manifest

        def die(*_):
            os._exit(9)

        json_of = type(read := Artifact.open(several)).open
        Artifact.open = die
        try:
            write_reduced(read, CHOICE, tmp_path / "small")
        finally:
            os._exit(1 if json_of else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert not (tmp_path / "small").exists()
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(".partial")]) == 1
    write_reduced(Artifact.open(several), CHOICE, tmp_path / "small")
    assert json.loads((tmp_path / "small" / "pocketvlm.json").read_text())
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
