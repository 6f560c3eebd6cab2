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


@pytest.mark.parametrize(("size", "before"), [("500x300", 18), ("300x500", 18), ("8x4", 2)])
def test_a_profile_is_of_pictures_of_the_size_asked_for(folder, size, before):
    asked = ["profile", folder / "a", "--repeat", "1", "--warmup", "0", "--new-tokens", "1"]
    result = invoke(*asked, "--picture-size", size, "--json")
    assert result.exit_code == 0, result.stderr
    for row in json.loads(result.stdout)["results"]:
        assert row["picture_sizes"] == [size]
        counted = (row["visual_tokens_before"], row["visual_tokens_after"])
        assert counted == (before, min(before, K))


def test_a_size_that_cannot_be_is_refused(folder):
    for size, code in (("0x4", 1), ("100000x100000", 1), ("4", 2), ("axb", 2)):
        result = invoke("profile", folder / "a", "--picture-size", size)
        assert (result.exit_code, "picture" in result.stderr) == (code, True)
    result = invoke("profile", folder / "a", "--picture-size", "4x4", "--image", folder / "p.png")
    assert result.exit_code == 2


def test_pictures_of_several_sizes_are_evaluated_at_budgets_above_some(folder):
    """Each keeps all of its tokens where it has fewer than the budget, and answers as it does by
    itself: features of one size are no other's."""
    questions = []
    for name, size in (("p", None), ("small", (8, 4)), ("flat", (64, 8))):
        if size:
            picture(*size).save(folder / f"{name}.png")
        image = str(folder / f"{name}.png")
        questions.append({"image": image, "question": "is it?", "answers": ["yes"]})
    questions += questions  # from the cache of features
    data = folder / "sizes.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    kept = folder / "sizes-answers.jsonl"
    asked = ["evaluate", folder / "a", "--data", data, "--max-new-tokens", "2"]
    result = invoke(*asked, "--budget", "6,4,1", "--answers", kept)
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()[1:]]
    assert len(rows) == 6 * 3
    for row in rows:
        question = questions[row["line"] - 1]
        alone = ["run", folder / "a", "--image", question["image"], "--prompt", "is it?"]
        alone += ["--max-new-tokens", "2", "--budget", row["budget"], "--json"]
        answer = json.loads(invoke(*alone).stdout)
        assert row["visual_tokens"] == answer["visual_tokens"]["after"]
        assert row["text"] == answer["text"].strip()
    assert {row["visual_tokens"] for row in rows if row["budget"] == 6} == {6, 2}


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


def test_a_targets_caps_are_taken_as_far_as_the_artifact_has_them(folder, tmp_path):
    (tmp_path / "board.toml").write_text(
        'description = "a board"\nmax_pixels = 128\nmax_tiles = 2\n'
    )
    asked = ["profile", folder / "a", "--repeat", "1", "--warmup", "0", "--new-tokens", "1"]
    result = invoke(*asked, "--target", tmp_path / "board.toml", "--json")
    rows = json.loads(result.stdout)["results"]
    assert {(row["max_pixels"], row["max_tiles"]) for row in rows} == {(128, None)}
    assert {row["visual_tokens_before"] for row in rows} == {8}
