"""What pyproject.toml states is what the pages and the files for a public host say."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from pocketvlm.cli import _EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_THE_REPOSITORY = {"test", "lint"}


def names(requirements):
    return [Requirement(text).name for text in requirements]


def test_every_extra_is_on_the_page_with_what_it_brings():
    extras = PROJECT["optional-dependencies"]
    wanted = {f"`{name}`": names(extras[name]) for name in extras if name not in OF_THE_REPOSITORY}
    wanted["none"] = names(PROJECT["dependencies"])
    section = (ROOT / "docs" / "install.md").read_text().partition("| extra |")[2]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if " | " in line]
    assert {row[0]: row[2].split(", ") for row in rows[1:]} == wanted


def test_commands_ask_for_extras_that_are_there():
    assert set(_EXTRAS.values()) <= set(PROJECT["optional-dependencies"])


def test_what_tests_need_of_extras_is_asked_for_alike():
    extras = PROJECT["optional-dependencies"]
    everywhere = {}
    for texts in [PROJECT["dependencies"], *extras.values()]:
        for text in texts:
            everywhere.setdefault(Requirement(text).name, set()).add(text)
    assert {name: texts for name, texts in everywhere.items() if len(texts) > 1} == {}


def test_the_workflow_runs_what_ci_runs_on_every_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1]["run"] == "bash .ci/run"
    assert workflow["permissions"] == {"contents": "read"}
    for step in job["steps"][:-1]:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
    pythons = {
        text.rpartition(" ")[2]
        for text in PROJECT["classifiers"]
        if re.search(r"Python :: 3\.\d+$", text)
    }
    assert set(job["strategy"]["matrix"]["python"]) == pythons
    assert PROJECT["requires-python"] == f">={min(pythons)}"


def test_hooks_run_what_lint_runs():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    lint = {line.replace("$(BIN)/", "").strip().removesuffix(" .") for line in recipe.splitlines()}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    run = {hook["entry"].replace(".venv/bin/", "") for hook in hooks}
    assert {command.removesuffix(" --force-exclude") for command in run} == lint


def test_the_citation_is_of_this_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)


def test_the_javascript_client_is_of_this_release():
    for name in ("package.json", "package-lock.json"):
        assert json.loads((ROOT / "clients" / name).read_text())["version"] == PROJECT["version"]


@pytest.mark.parametrize("form", ["bug.yml", "checkpoint.yml"])
def test_issues_ask_for_the_command_and_the_version(form):
    asked = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / form).read_text())["body"]
    fields = {field["id"]: field for field in asked if "id" in field}
    assert {"command", "version"} <= set(fields)
    assert fields["command"]["validations"]["required"]
    if form == "bug.yml":
        assert fields["inspect"]["attributes"]["label"] == "pocketvlm inspect DIR --json"
