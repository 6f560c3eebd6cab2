"""Questions to two models: who answered is written down, counted and scored, and a run continues
where it was."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Sampling, cli
from support.tiny_artifact import give_scores, read_scores, write_artifact

QUESTIONS = ("what?", "which?", "who is it?")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a guide, a model that is given its scores and a set, of which the guide's own
    answers are expected."""
    monkeypatch.chdir(tmp_path)
    give_scores(tmp_path / "small", write_artifact(tmp_path / "small", seed=1, budgets=(16,)))
    read_scores(tmp_path / "large", write_artifact(tmp_path / "large", seed=2, budgets=(16,)), 5)
    write_artifact(tmp_path / "plain", seed=2, budgets=(16,))
    vlm, rows = VLM.load("small"), []
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"{number}.png")
        for question in QUESTIONS:
            answer = vlm.generate(question, [f"{number}.png"], sampling=Sampling(max_new_tokens=4))
            row = {"image": f"{number}.png", "question": question, "answers": [answer.text]}
            rows.append(row)
    (tmp_path / "set.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def evaluate(model, *more):
    arguments = ["evaluate", model, "--data", "set.jsonl", "--max-new-tokens", "4", "--json"]
    done = CliRunner().invoke(cli.main, [*arguments, *map(str, more)])
    return done


def test_who_answered(here):
    done = evaluate("large", "--guide", "small", "--confidence", 0, "--answers", "a.jsonl")
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert result["guide"] == {"folder": str(here / "small"), "confidence": 0.0}
    assert result["answered_by"]["guide"]["questions"] == 9
    (figure,) = result["figures"]
    assert result["answered_by"]["guide"][figure]["value"] == 1.0
    # Another confidence is another run of the same file.
    done = evaluate("large", "--guide", "small", "--answers", "a.jsonl", "--resume")
    (result,) = json.loads(done.stdout)["results"]
    assert list(result["answered_by"]) == ["model"]
    lines = (here / "a.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 9 + 9
    again = evaluate("large", "--guide", "small", "--answers", "a.jsonl", "--resume")
    assert json.loads(again.stdout)["results"][0]["answered_by"] == result["answered_by"]
    assert (here / "a.jsonl").read_text().splitlines() == lines


def test_people_are_told(here):
    arguments = ["evaluate", "plain", "--data", "set.jsonl", "--guide", "small"]
    done = CliRunner().invoke(cli.main, [*arguments, "--confidence", "0", "--max-new-tokens", "4"])
    assert done.exit_code == 0, done.output
    assert "of 9 questions were answered by its guide 9 (100.0 [" in done.stdout
    assert "plain by small from 0" in done.stdout
    assert CliRunner().invoke(cli.main, [*arguments[:4], "--confidence", "0"]).exit_code == 2


@pytest.mark.parametrize("method", ["fastervlm", "visionzip"])
def test_a_guide_that_only_answers_has_a_budget_of_its_own(here, method):
    """Smaller than the model's, whose budgets are one graph or a graph each."""
    budgets = (16, 6)
    write_artifact(
        here / "big", seed=2, budgets=budgets, method=method, nested=method != "visionzip"
    )
    write_artifact(here / "tiny", seed=1, budgets=(5,), method="visionzip", nested=False)
    own = VLM.load("tiny").generate("what?", ["0.png"], sampling=Sampling(max_new_tokens=4))
    shown = ["--guide", "tiny", "--confidence", "0"]
    asked = ["run", "big", *shown, "--budget", "6", "--image", "0.png", "--prompt", "what?"]
    ran = CliRunner().invoke(cli.main, [*asked, "--max-new-tokens", "4", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["text"] == own.text
    done = evaluate("big", *shown, "--budget", "16,6", "--answers", "a.jsonl")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert [result["answered_by"]["guide"]["questions"] for result in results] == [9, 9]
    replies = [json.loads(line) for line in (here / "a.jsonl").read_text().splitlines()[1:]]
    assert {(reply["budget"], reply["visual_tokens"]) for reply in replies} == {(16, 5), (6, 5)}
    assert {reply["text"] for reply in replies if reply["line"] == 1} == {own.text.strip()}


def test_without_a_guide_nothing_is_said_of_one(here):
    done = evaluate("plain")
    (result,) = json.loads(done.stdout)["results"]
    assert not {"guide", "answered_by"} & result.keys()
    refused = evaluate("large", "--answers", "b.jsonl")
    assert refused.exit_code == 1
    assert "there is none: answer with `pocketvlm run DIR --guide SMALL`" in refused.stderr
