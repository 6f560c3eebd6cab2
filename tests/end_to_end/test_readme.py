"""Every command that the README and the pages beside it show does what it says, in the order they
show them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/evaluate.md")
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
COMMANDS = re.findall(
    r"^(?:\$ )?(pocketvlm .*)$", "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)), re.M
)
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(examples)
    return path


def test_the_commands_run(folder):
    assert COMMANDS
    for command in COMMANDS:
        words = shlex.split(command, comments=True)
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_programs_run(folder):
    assert PROGRAMS
    for program in PROGRAMS:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program}\n{done.stderr}"


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
