"""Caps on pictures while measuring: what is measured is what a device would do under them."""

import json

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from support.noise import picture
from support.tiny_artifact import make_dynamic, write_artifact

K, TOKENS = 6, 24
SMALLER = ["--max-pixels", "128"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dynamic")
    weights = write_artifact(folder / "a", budgets=(K,))
    make_dynamic(folder / "a", weights, K, TOKENS)
    picture(500, 300).save(folder / "p.png")
    question = {"image": str(folder / "p.png"), "question": "is it?", "answers": ["yes"]}
    (folder / "q.jsonl").write_text(json.dumps(question) + "\n")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("caps", "before"), [([], 24), (SMALLER, 8)])
def test_a_profile_is_of_pictures_as_small_as_asked(folder, caps, before):
    asked = ["profile", folder / "a", "--repeat", "1", "--warmup", "0", "--new-tokens", "1"]
    result = invoke(*asked, *caps, "--json")
    rows = json.loads(result.stdout)["results"]
    assert {row["visual_tokens_before"] for row in rows} == {before}
    assert {row["max_pixels"] for row in rows} == {128 if caps else None}


def test_answers_under_other_caps_are_not_gone_on_with(folder):
    asked = ["evaluate", folder / "a", "--data", folder / "q.jsonl", "--max-new-tokens", "1"]
    asked += ["--answers", folder / "answers.jsonl"]
    assert invoke(*asked).exit_code == 0
    again = invoke(*asked, *SMALLER, "--resume")
    assert again.exit_code == 1
    assert "was answered with max_pixels None: expected 128" in again.stderr


@pytest.mark.parametrize("command", [["profile"], ["evaluate", "--data", "q.jsonl"], ["inspect"]])
def test_more_than_the_artifacts_own_is_refused(folder, command):
    for caps, found in (
        (["--max-pixels", "385"], "max_pixels 385: expected 16..384"),
        (["--max-tiles", "1"], "max_tiles is nothing that the layout smart-resize has"),
    ):
        result = invoke(*command, folder / "a", *caps)
        assert result.exit_code == 1
        assert found in result.stderr
