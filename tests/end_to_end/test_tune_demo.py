"""`pocketvlm tune demo`: from the checkpoint to a folder that answers as chosen, and a target that
exports the same."""

import json

import pytest
from click.testing import CliRunner

from pocketvlm import VLM
from pocketvlm.artifact import Artifact
from pocketvlm.cli import main
from pocketvlm_targets import load_target


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, examples):
    """A grid of one method at one budget, on the questions about the shipped pictures."""
    folder = tmp_path_factory.mktemp("tuned")
    grid = ["--method", "fastervlm", "--tower-stage", "none", "--budget", "36"]
    grid += ["--vision-precision", "fp32", "--decoder-precision", "int8", "--threads", "1"]
    files = {"--report": "r.html", "--write-target": "t.toml", "--export": "out"}
    files |= {"--exports": "exports", "--answers": "answers.jsonl"}
    command = ["tune", "demo", "--data", examples / "questions.jsonl", *grid]
    command += ["--max-loss", "50", "--time", "30m", "--json"]
    command += [word for option, name in files.items() for word in (option, folder / name)]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    return folder, result


def test_it_said_what_it_would_export_and_did(tuned):
    folder, result = tuned
    assert "up to 2 exports" in result.stderr
    assert "--pruner fastervlm: 36 of 144 tokens" in result.stderr
    made = sorted(path.parent for path in (folder / "exports").rglob("pocketvlm.json"))
    assert len(made) == 2
    assert all(Artifact.open(each, "full").manifest.parity.passed for each in made)


def test_the_choice_answers_without_any_option(tuned, examples):
    folder, result = tuned
    chosen = json.loads(result.stdout)["chosen"]
    vlm = VLM.load(folder / "out")
    manifest = Artifact.open(folder / "out", "full").manifest
    assert manifest.pruning.budgets == (chosen["budget"],)
    rows = [json.loads(line) for line in (examples / "questions.jsonl").read_text().splitlines()]
    right = [
        vlm.generate(row["question"], images=[examples / row["image"]]).text.strip()
        in row["answers"]
        for row in rows
    ]
    assert sum(right) >= len(right) / 2


def test_the_target_plans_the_same_export(tuned, tmp_path):
    folder, result = tuned
    chosen = json.loads(result.stdout)["chosen"]
    target = load_target(folder / "t.toml")
    assert target.budget == (chosen["budget"],)
    assert set(target.reasons) == set(target.settings())
    command = ["export", "demo", "-o", str(tmp_path / "x"), "--dry-run", "--json"]
    plan = CliRunner().invoke(main, [*command, "--target", str(folder / "t.toml")])
    assert plan.exit_code == 0, plan.output
    assert json.loads(plan.stdout)["budgets"] == [chosen["budget"]]
    assert json.loads(plan.stdout)["pruner"] == target.pruner
