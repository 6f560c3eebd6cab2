"""`--provider` on the commands that answer or measure, and what `verify` prints of a self-test."""

import json
import shutil

import pytest
from click.testing import CliRunner

from pocketvlm import cli
from support.self_tests import give_self_test, scale_weights
from support.tiny_artifact import write_artifact

AZURE = ("--provider", "AzureExecutionProvider")


def pocketvlm(*arguments, **options):
    return CliRunner().invoke(
        cli.main, [str(a) for a in arguments], prog_name="pocketvlm", **options
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("providers") / "artifact"
    write_artifact(root)
    give_self_test(root)
    return root


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written, tmp_path / "artifact")
    return tmp_path / "artifact"


def test_verify_runs_the_self_test(written):
    lines = pocketvlm("verify", written).stdout.splitlines()
    assert lines[1].startswith("self-test on CPUExecutionProvider: passed (")
    assert [line.split()[:2] for line in lines[2:]] == [["vision", "fp32,"], ["decoder", "fp32"]]
    printed = json.loads(pocketvlm("verify", written, "--json", *AZURE).stdout)
    assert printed["self_test"]["passed"]
    assert printed["self_test"]["provider"] == "AzureExecutionProvider"
    figures = printed["self_test"]["graphs"][0]["figures"]
    assert figures["kept"] == {"value": 1.0, "bound": 1.0, "passed": True}


def test_verify_says_that_there_is_none(artifact_dir):
    result = pocketvlm("verify", artifact_dir)
    assert (result.exit_code, "it has no self-test" in result.stdout) == (0, True)
    assert json.loads(pocketvlm("verify", artifact_dir, "--json").stdout)["self_test"] is None
    refused = pocketvlm("verify", artifact_dir, *AZURE)
    assert refused.exit_code == 1
    assert "has no self-test" in refused.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_verify_fails_where_a_graph_computes_something_else(folder, form):
    scale_weights(folder, "onnx/vision_encoder.onnx", "patch", 1.1)
    result = pocketvlm("verify", folder, *form)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "onnx/vision_encoder.onnx" in result.stderr
    assert "features differ" in result.stderr
    if form:
        assert json.loads(result.stdout)["self_test"]["passed"] is False
    else:
        assert "self-test on CPUExecutionProvider: FAILED" in result.stdout


def test_a_provider_answers_once_it_has_passed(folder):
    asked = ("--prompt", "what?", "--max-new-tokens", 3)
    plain, other = (pocketvlm("run", folder, *asked, *more) for more in ((), AZURE))
    assert plain.exit_code == other.exit_code == 0, other.stderr
    assert plain.stdout == other.stdout
    scale_weights(folder, "onnx/decoder_model_merged.onnx", "o.1", 1.1)
    refused = pocketvlm("run", folder, *asked, *AZURE)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "fails its self-test on AzureExecutionProvider" in refused.stderr
    chat = pocketvlm("chat", folder, *AZURE, input="what?\n")
    assert (chat.exit_code, chat.stdout) == (1, "")


@pytest.mark.parametrize("command", ["run", "verify", "profile", "evaluate"])
def test_a_provider_that_is_not_there_is_refused_in_one_line(command, written, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "what?", "answers": ["x"]}\n')
    needed = {
        "run": ("--prompt", "what?"),
        "evaluate": ("--data", tmp_path / "q.jsonl", "--answers", tmp_path / "a.jsonl"),
    }.get(command, ())
    result = pocketvlm(command, written, *needed, "--provider", "nnapi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'NnapiExecutionProvider' is not in this ONNX Runtime, which has" in result.stderr
    assert result.stderr.count("\n") == 1
    typo = pocketvlm(command, written, *needed, "--provider", "cpu:threads")
    assert "expected NAME[:KEY=VALUE,...]" in typo.stderr


def test_a_target_names_the_provider(folder, tmp_path):
    target = tmp_path / "device.toml"
    target.write_text('description = "d"\nprovider = ["nnapi:a=b,c=d"]\n')
    asked = ("--prompt", "what?", "--max-new-tokens", 3, "--target", target)
    refused = pocketvlm("run", folder, *asked)
    assert "NnapiExecutionProvider" in refused.stderr
    assert "device.toml" in refused.stderr
    assert pocketvlm("run", folder, *asked, "--provider", "cpu").exit_code == 0


def test_inspect_names_the_files(written, artifact_dir):
    assert "self-test  selftest/image.json, selftest/image-0.png (" in (
        pocketvlm("inspect", written).stdout
    )
    assert "self-test  none" in pocketvlm("inspect", artifact_dir).stdout


def test_measuring_tests_before_it_times(folder, tmp_path):
    scale_weights(folder, "onnx/vision_encoder.onnx", "score", -1.0)
    result = pocketvlm("profile", folder, "--repeat", 1, *AZURE)
    assert result.exit_code == 1
    assert "fails its self-test" in result.stderr
