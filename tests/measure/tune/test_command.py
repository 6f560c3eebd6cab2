"""`pocketvlm tune` as people call it: what it prints, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from pocketvlm import cli
from pocketvlm_measure.tune.measured import Measured


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tune(artifact_dir, here, runs, write_set):
    """The command about the tiny artifact, with times that are made up."""
    data = write_set()

    def call(*more):
        words = ["tune", artifact_dir, "--data", data, "--max-new-tokens", 4, *more]
        return CliRunner().invoke(cli.main, [str(word) for word in words], prog_name="pocketvlm")

    return call


def test_it_prints_what_was_tried_and_the_command_to_use(tune, here):
    result = tune("--max-loss", 100, "--budget", "12,3")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("chosen: ")
    assert "\nset.jsonl: 6 questions about 3 pictures; at most 100 points" in result.stdout
    assert "120.0 (120.0-120.0)" in result.stdout
    assert "pocketvlm run " in result.stdout
    assert "--budget 3 --decoder onnx" in result.stdout or "--budget 12" in result.stdout
    assert "left] baseline: 12 tokens" in result.stderr
    assert {path.name for path in here.glob("tuning-*")} == {
        "tuning-set-artifact.jsonl",
        "tuning-set-artifact.times.jsonl",
    }
    assert "answers: tuning-set-artifact.jsonl; times: tuning-set-artifact.times" in result.stderr
    again = tune("--max-loss", 100, "--budget", "12,3")
    assert again.exit_code == 1
    assert "exists already: continue with it by --resume" in again.stderr


def test_json_has_every_candidate_and_goes_on(tune):
    first = tune("--json")
    assert first.exit_code == 0, first.output
    again = tune("--json", "--resume")
    one, two = json.loads(first.stdout), json.loads(again.stdout)
    assert [row["budget"] for row in one["candidates"]] == [1, 3, 6]
    assert one["baseline"]["budget"] == 12
    assert one["limits"]["error"] == 0.05
    assert one["command"].startswith("pocketvlm run ")
    assert one["candidates"] == two["candidates"]


def test_limits_that_nothing_keeps_end_with_one_and_name_the_nearest(tune):
    result = tune("--max-ttft", 8, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["chosen"] is None
    assert (
        "the nearest of 4 timed is 1 token, which takes up to 10 ms to the first token"
        in result.stderr
    )
    assert "2.0 more than --max-ttft 8" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--time", "0s", "is not a time"),
        ("--time", "ten", "is not a time"),
        ("--time", "", "is not a time"),
        ("--error", "0", "--error"),
        ("--max-loss", "101", "--max-loss"),
    ],
)
def test_wrong_values_are_usage_errors(tune, option, value, reason):
    result = tune(option, value)
    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1m5s", 65)]
)
def test_times_are_read_as_people_write_them(tune, text, seconds):
    result = tune("--time", text, "--json", "--budget", "12")
    assert json.loads(result.stdout)["limits"]["time"] == seconds


def test_what_the_folder_does_not_have_is_refused(tune):
    result = tune("--decoder-precision", "int3")
    assert result.exit_code == 1
    assert "int3" in result.stderr


def test_a_short_time_makes_no_choice_and_says_how_to_go_on(tune, monkeypatch):
    monkeypatch.setattr(Measured, "clock", lambda _: 2.0)
    result = tune("--time", "1s", "--threads", 2)
    assert result.exit_code == 1
    assert result.stdout.startswith("no choice made: 3 of 3 settings were not timed\n")
    assert "3 not reached: the time was up" in result.stdout
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("continue: "))
    assert line.startswith("continue: pocketvlm tune ")
    assert line.endswith("--threads 2 --time 2s --resume")


def test_memory_is_a_number_of_megabytes(tune):
    result = tune("--max-memory", "1GB")
    assert result.exit_code == 2
    assert "'1GB' is not a number of megabytes, such as 1000" in result.stderr
