"""Limits on pictures: which were in force is said with each answer, and more than the artifact's
own is refused in one line, by every command alike."""

import json

import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Sampling
from pocketvlm.cli import main
from pocketvlm.cli.run import summary
from pocketvlm.layouts import counting_layout
from support.noise import picture
from support.tiny_artifact import make_dynamic, write_artifact

K, TOKENS = 6, 24
ONE = Sampling(max_new_tokens=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of any size, at most 24 tokens."""
    folder = tmp_path_factory.mktemp("dynamic") / "a"
    make_dynamic(folder, write_artifact(folder, budgets=(K,)), K, TOKENS)
    return folder


def test_an_answer_says_what_was_in_force(folder):
    whole, small = VLM.load(folder), VLM.load(folder, max_pixels=100)
    own = counting_layout(whole.artifact).caps["max_pixels"]
    for vlm, most in ((whole, own), (small, 100)):
        answer = vlm.generate("what?", [picture(60, 40)], sampling=ONE)
        assert answer.caps == {"max_pixels": most}
        assert f"at most {most} pixels a picture" in summary(answer)
    assert small.generate("what?", sampling=ONE).caps == {}


def test_what_has_no_such_limit_says_nothing(artifact_dir):
    answer = VLM.load(artifact_dir).generate("what?", [picture(60, 40)], sampling=ONE)
    assert answer.caps == {}
    assert "at most" not in summary(answer)


@pytest.mark.parametrize("command", ["run", "chat", "evaluate", "profile", "inspect"])
def test_more_than_the_artifacts_own_is_refused_with_both_numbers(folder, tmp_path, command):
    photo, questions = tmp_path / "photo.png", tmp_path / "questions.jsonl"
    picture(20, 12).save(photo)
    asked = {"image": "photo.png", "question": "what?", "answers": ["it"]}
    questions.write_text(json.dumps(asked) + "\n")
    further = {
        "run": ["--image", str(photo), "--prompt", "what?"],
        "chat": ["--image", str(photo)],
        "evaluate": ["--data", str(questions)],
        "profile": ["--image", str(photo)],
        "inspect": [],
    }[command]
    own = counting_layout(VLM.load(folder).artifact).caps["max_pixels"]
    arguments = [command, str(folder), "--max-pixels", "999999", *further]
    done = CliRunner().invoke(main, arguments, input="")
    assert done.exit_code == 1, done.output
    assert "max_pixels 999999" in done.stderr
    assert f"..{own}, which the artifact was exported for" in done.stderr
    words = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
    assert "Resize pictures to at most N pixels" in words
    assert "Cut pictures into at most N parts" in words
