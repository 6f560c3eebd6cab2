"""The folder of a choice: it answers as the larger one does when asked for the choice, holds
nothing else, and appears whole or not at all."""

import json
import os
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Sampling, cli
from pocketvlm.artifact import Artifact
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm_measure.cases import Case
from pocketvlm_measure.tune.reduced import check_output, reduced_manifest, write_reduced
from support.self_tests import give_self_test
from support.tiny_artifact import (
    give_gguf,
    give_selectors,
    read_manifest,
    write_artifact,
    write_manifest,
)
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
    facts = json.loads((small / "using.json").read_text())
    assert set(facts["weights"]) == graphs - {f"{name}_data" for name in graphs}
    assert facts["vision"]["graphs"] == {"6": {"int8": "onnx/vision_encoder_quantized.k6.onnx"}}
    assert "vision_encoder_quantized.k6.onnx" in (small / "USING.md").read_text()
    card = (small / "README.md").read_text()
    assert card.endswith("about the model")
    assert "a part of the artifact that is described below" in card
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


@pytest.mark.parametrize("precision", ["int8+fp32", "fp32+int8", "int8", "fp32"])
def test_of_an_artifact_that_answers_by_a_pair(several, tmp_path, picture, precision):
    give_pair(several, "int8+fp32")
    case = replace(CHOICE, decoder_precision=precision)
    manifest = write_reduced(Artifact.open(several), case, tmp_path / "small")
    assert manifest.decoder.pair == (precision if "+" in precision else "")
    own, whole = VLM.load(tmp_path / "small"), loaded(several, case)
    assert answer(own, picture) == answer(whole, picture)


def give_pair(root, pair):
    data = read_manifest(root)
    data["decoder"]["pair"] = pair
    write_manifest(root, data, recount=False)


def verified(folder):
    """What `pocketvlm verify` prints of a folder, as JSON."""
    result = CliRunner().invoke(cli.main, ["verify", str(folder), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def without_exporter(monkeypatch):
    """No exporter is installed."""
    monkeypatch.setattr("pocketvlm_measure.tune.self_test.NAME", "another")


@pytest.mark.parametrize("vision", ["fp32", "int8"])
def test_the_self_test_of_what_is_left_holds(tmp_path, without_exporter, vision):
    root = write_several(tmp_path, budgets=(6, 12, 3), seed=0)
    give_pair(root, "int8+fp32")
    give_self_test(root)
    case = replace(CHOICE, vision_precision=vision, decoder_precision="int8+fp32")
    write_reduced(Artifact.open(root), case, tmp_path / "small")
    whole = json.loads((root / "selftest" / "image.json").read_text())
    left = json.loads((tmp_path / "small" / "selftest" / "image.json").read_text())
    assert [row["budget"] for row in left["vision"]] == [6]
    assert left["decoder"]["logits"] == whole["decoder"]["logits"]
    assert {row["vision"] for row in left["decoder"]["bounds"]} == {vision}
    assert verified(tmp_path / "small")["self_test"]["passed"]


@pytest.mark.parametrize("installed", [True, False])
def test_one_behind_another_budget_is_measured_anew_or_left_out(
    several, tmp_path, request, installed
):
    give_self_test(several)
    if not installed:
        request.getfixturevalue("without_exporter")
    write_reduced(Artifact.open(several), CHOICE, tmp_path / "small")
    tested = verified(tmp_path / "small")["self_test"]
    assert (tested is not None) == installed
    assert (tmp_path / "small" / "selftest").exists() == installed
    if installed:
        assert tested["passed"]


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


def test_a_choice_of_llama_cpp_has_no_pair(several):
    pytest.importorskip("gguf")
    give_pair(several, "int8+fp32")
    graphs = read_manifest(several)["decoder"]
    give_gguf(several)
    data = read_manifest(several)
    data["decoder"]["engines"] = ["onnx", "llama.cpp"]
    data["decoder"]["default_precisions"]["onnx"] = graphs["default_precisions"]["onnx"]
    write_manifest(several, data)
    case = Case(6, "llama.cpp", "f32", "int8")
    assert reduced_manifest(Artifact.open(several), case).decoder.pair == ""


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
