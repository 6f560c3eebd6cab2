"""`pocketvlm evaluate` as people call it: what it prints and writes, and what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Sampling, cli
from pocketvlm_measure.evaluation.public import BENCHMARKS
from support.web_page import Page


def pocketvlm(*arguments):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="pocketvlm")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def data(here, artifact_dir):
    """A set whose expected answers are what the model says with 12 tokens."""
    vlm, rows = VLM.load(artifact_dir, budget=12), []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(here / f"{number}.png")
        answer = vlm.generate(
            "what?", [here / f"{number}.png"], sampling=Sampling(max_new_tokens=4)
        ).text
        tags = ["odd" if number % 2 else "even"]
        rows.append(
            {"image": f"{number}.png", "question": "what?", "answers": [answer], "tags": tags}
        )
    (here / "set.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return here / "set.jsonl"


def run(artifact_dir, data, *more):
    return pocketvlm("evaluate", artifact_dir, "--data", data, "--max-new-tokens", 4, *more)


def test_figures_are_printed_written_and_kept(artifact_dir, data, here):
    result = run(artifact_dir, data, "--budget", "12,3", "--json", here / "out.json")
    assert result.exit_code == 0, result.output
    assert "set.jsonl: 6 questions about 6 pictures, exact in per cent" in result.stdout
    assert " 12  100.0 [54.1, 100.0]" in result.stdout
    assert "even          3" in result.stdout
    written = json.loads((here / "out.json").read_text())
    whole, few = written["results"]
    assert (whole["budget"], few["budget"], written["questions"], written["skipped"]) == (
        12,
        3,
        6,
        [],
    )
    assert whole["figures"]["accuracy"]["value"] == 1
    assert few["baseline"]["budget"] == 12
    assert few["baseline"]["estimate"]["value"] == few["figures"]["accuracy"]["value"] - 1
    kept = here / "answers-set-artifact.jsonl"
    assert len(kept.read_text().splitlines()) == 1 + 12
    again = run(
        artifact_dir, data, "--budget", "12,3", "--resume", "--metric", "contains", "--json"
    )
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["metric"] == "contains"
    assert len(kept.read_text().splitlines()) == 1 + 12


def test_the_report_is_one_page_with_plots_and_changed_answers(artifact_dir, data, here):
    """What 12 tokens say is right; the page shows what fewer change, and only pictures that lie
    inside it."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        row["question"] = "what? <b>"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = run(artifact_dir, data, "--budget", "12,6,1", "--report", here / "x.html", "--json")
    assert result.exit_code == 0, result.output
    lines = (here / "answers-set-artifact.jsonl").read_text().splitlines()[1:]
    texts = {(row["line"], row["budget"]): row["text"] for row in map(json.loads, lines)}
    changed = [
        line for line in range(1, 7) if len({texts[line, budget] for budget in (12, 6, 1)}) > 1
    ]
    assert changed
    page = Page((here / "x.html").read_text())
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert sum(reference.startswith("data:image/svg") for reference in page.references) == 2
    assert sum(reference.startswith("data:image/jpeg") for reference in page.references) == 2 * len(
        changed
    )
    assert not {"script", "link", "b"} & set(page.tags)
    assert page.text.count("what? <b>") == len(changed)


def test_papers_figures_stand_beside(artifact_dir, data, monkeypatch):
    monkeypatch.setitem(BENCHMARKS["pope"].published.columns["FasterVLM"], 12, 85.88)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["answers"] = [
            "no" if number in (3, 5) else "yes"
        ]  # the model never says no: F1 of 1 and of 0.5 by tag
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = ["--budget", 12, "--metric", "yesno-f1", "--published", "pope"]
    result = run(artifact_dir, data, *options)
    assert result.exit_code == 0, result.output
    assert (
        "Beside what papers report for LLaVA-1.5-7B, the mean over tags, in per cent:"
        in result.stdout
    )
    assert "12 tokens  75.00      85.88" in result.stdout
    printed = json.loads(run(artifact_dir, data, *options, "--resume", "--json").stdout)
    assert printed["results"][0]["mean_over_tags"] == pytest.approx(0.75)
    assert printed["results"][0]["figures"]["f1"]["value"] == pytest.approx(0.8)
    assert printed["results"][0]["figures"]["yes"]["value"] == 1


def test_a_baseline_may_be_a_budget_that_is_not_listed(artifact_dir, data):
    result = run(artifact_dir, data, "--budget", "6", "--baseline", 12, "--json")
    assert result.exit_code == 0, result.output
    assert [score["budget"] for score in json.loads(result.stdout)["results"]] == [12, 6]


def test_what_is_left_out_is_said(artifact_dir, data):
    with data.open("a") as file:
        file.write("no JSON\n")
    result = run(artifact_dir, data, "--limit", 6)
    assert result.exit_code == 0, (
        result.output
    )  # the broken line lies behind the last that is asked
    result = run(artifact_dir, data, "--broken", "skip", "--resume")
    assert result.exit_code == 0, result.output
    assert "warning: 1 line left out of every case: line 7: is not JSON" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "reason"),
    [
        (["--metric", "bleu"], 2, "--metric"),
        (["--budget", "all,6"], 2, "cannot be combined"),
        (["--budget", "17"], 1, "budget 17: expected 1..12"),
        (["--baseline", "17"], 1, "budget 17: expected 1..12"),
        (["--baseline", "nowhere"], 1, "nowhere"),
        (["--decoder", "llama.cpp"], 1, "llama.cpp"),
        (["--workers", "0"], 2, "--workers"),
        (["--answers", "nowhere/a.jsonl"], 1, "no such folder: nowhere"),
        (["--json", "nowhere/a.json"], 1, "no such folder: nowhere"),
        (["--metric", "vqa"], 1, "line 1: metric vqa expects the answers of at least 4 annotators"),
        (["--data", "missing.jsonl"], 1, "missing.jsonl cannot be read"),
    ],
)
def test_refusals(artifact_dir, data, arguments, exit_code, reason):
    result = run(artifact_dir, data, *arguments)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert reason in result.stderr


def test_answers_that_are_there_are_not_overwritten(artifact_dir, data):
    assert run(artifact_dir, data).exit_code == 0
    result = run(artifact_dir, data)
    assert result.exit_code == 1
    expected = "answers-set-artifact.jsonl exists already: continue with it by --resume"
    assert expected in result.stderr
