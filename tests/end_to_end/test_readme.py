"""Every command that the README and the pages beside it show does what it says, in the order they
show them; one that several pages show runs once."""

import doctest
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/concepts.md",
    "docs/by-the-question.md",
    "docs/api.md",
    "docs/evaluate.md",
    "docs/providers.md",
    "docs/tune.md",
    "docs/json-answers.md",
)
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
COMMANDS = list(
    dict.fromkeys(
        re.findall(
            r"^(?:\$ )?((?:pocketvlm|python examples/).*)$",
            "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)),
            re.M,
        )
    )
)
PROGRAMS = list(dict.fromkeys(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(examples)
    (path / "build").mkdir()
    (path / "build" / "demo").symlink_to(path / "demo-vlm")  # in the place of `make demo`
    return path


def test_the_commands_run(folder, examples, monkeypatch):
    """All in this process: a new one for each would mostly import torch."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("POCKETVLM_BUILD", str(folder / "build"))
    monkeypatch.syspath_prepend(examples)
    monkeypatch.delitem(sys.modules, "demo_folder", raising=False)
    assert COMMANDS
    for command in COMMANDS:
        name, *words = shlex.split(command, comments=True)
        if name == "python":
            runpy.run_path(words[0], run_name="__main__")
            continue
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


def test_the_programs_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert PROGRAMS
    for program in PROGRAMS:
        exec(compile(program, "README", "exec"), {"__name__": "__main__"})


def test_the_examples_of_the_reference_run(folder, monkeypatch):
    """Those of docs/api.md, each with names of its own, on the artifacts of the commands."""
    monkeypatch.chdir(folder)
    examples = re.findall(r"```pycon\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert examples
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=flags)
    for number, example in enumerate(examples):
        runner.run(parser.get_doctest(example, {}, f"example {number}", "docs/api.md", 0))
    assert not runner.summarize().failed


def test_the_command_reference_is_up_to_date():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pocketvlm.cli.reference",
            str(ROOT / "docs" / "commands.md"),
            "--check",
        ],
        check=False,
    )
    assert done.returncode == 0, "run: python -m pocketvlm.cli.reference docs/commands.md"
