"""What `pocketvlm tune` is given and what it writes: refusals before any work, and the files of a
whole run on a tiny artifact."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.cli import main
from pocketvlm_measure.tune.exporting import GROUP, NAME
from pocketvlm_targets import load_target
from support.packages import write_package

QUICK = ["--time", "60s", "--threads", "1", "--max-new-tokens", "3", "--max-loss", "100"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(main, ["tune", *map(str, arguments)])

    return call


@pytest.fixture
def asked(tmp_path):
    """Pictures of noise and two questions about each."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (tmp_path / "questions.txt").write_text("what is it?\nhow many?\n")
    (tmp_path / "data.jsonl").write_text('{"question": "what?", "answers": ["red"]}\n')
    return ["--pictures", folder, "--questions", tmp_path / "questions.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--data FILE.jsonl, or --pictures FOLDER"),
        (["--data", "data.jsonl", "--pictures", "pictures"], "give one of them"),
        (["--data", "data.jsonl", "--questions", "questions.txt"], "give one of them"),
        (["--pictures", "pictures"], "go together"),
        (["--questions", "questions.txt"], "go together"),
        (["--data", "data.jsonl", "--method", "scope"], "--method is for a checkpoint"),
        (["--data", "data.jsonl", "--exports", "x"], "--exports is for a checkpoint"),
        (["--data", "data.jsonl", "--tower-stage", "2"], "LAYER:KEEP"),
    ],
)
def test_wrong_usage_is_told_before_any_work(run, artifact_dir, asked, options, words):
    result = run(artifact_dir, *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--report", "no/where.html"], "no such folder"),
        (["--write-target", "device.txt"], "ends in .toml"),
        (["--export", "pictures"], "not empty"),
        (["--export", "questions.txt"], "is a file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    run, artifact_dir, asked, options, words
):
    result = run(artifact_dir, *asked, *options)
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_the_exporter_a_checkpoint_is_refused_in_a_line(run, asked, tmp_path, monkeypatch):
    write_package(tmp_path / "site", "tiny-exporter", {GROUP: f"{NAME} = no_such_module"})
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    result = run("demo", *asked)
    assert result.exit_code == 1, result.output
    assert "pip install 'pocketvlm[export]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


ASKED = """
from pocketvlm.errors import CheckpointError

def offer(model, **wishes):
    raise CheckpointError(f"asked for {wishes['image_sizes']}")
"""


def test_sizes_of_pictures_are_for_a_checkpoint(run, artifact_dir, asked, tmp_path, monkeypatch):
    entries = {GROUP: f"{NAME} = tiny_exporter"}
    write_package(tmp_path / "site", "tiny-exporter", entries, tiny_exporter=ASKED)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    result = run("demo", *asked, "--image-sizes", "112,84x112")
    assert (result.exit_code, result.stderr) == (1, "error: asked for ((112, 112), (84, 112))\n")
    assert "asked for ()" in run("demo", *asked).stderr
    for model, sizes, words in (
        ("demo", "112,x", "'x' is not two numbers of pixels"),
        (artifact_dir, "112", "--image-sizes is for a checkpoint"),
    ):
        result = run(model, *asked, "--image-sizes", sizes)
        assert result.exit_code == 2, result.output
        assert words in result.stderr


def test_a_target_with_a_provider_is_taken_and_its_size_is_not(run, artifact_dir, asked, tmp_path):
    text = 'description = "x"\nprovider = ["cpu"]\nimage_size = 28\nbudget = [12, 6]\n'
    (tmp_path / "device.toml").write_text(text)
    result = run(artifact_dir, *asked, *QUICK, "--target", "device.toml", "--json")
    assert result.exit_code == 0, result.output
    assert "image_size of the target is tried where --image-sizes names it" in result.stderr
    assert "--provider cpu" in json.loads(result.stdout)["command"]


def test_agreement_is_measured_and_all_is_written(run, artifact_dir, asked, tmp_path):
    outputs = ["--report", "r.html", "--write-target", "t.toml", "--export", "small"]
    result = run(artifact_dir, *asked, *QUICK, "--budget", "12,6", *outputs, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["figure"] == "agreement with the baseline"  # of 12 tokens, of 16
    page = (tmp_path / "r.html").read_text().lower()
    assert page.count("accuracy") == page.count("not accuracy") > 0
    (other,) = printed["candidates"]
    assert other["budget"] == 6
    chosen = printed["chosen"]["budget"]
    assert load_target(tmp_path / "t.toml").budget == (chosen,)
    assert Artifact.open(tmp_path / "small", "full").manifest.pruning.budgets == (chosen,)
