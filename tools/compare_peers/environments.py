"""Knows how a peer gets an environment of its own, made from package names and kept for the next run."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import click

from install_llama_cpp import WHEELS

ROOT = Path(__file__).parents[2]


def make_environment(folder: Path, requirements: Sequence[str], pip_args: Sequence[str]) -> Path:
    """The environment's Python; made where it is not there, or was made from other requirements.

    Raises:
        click.ClickException: pip cannot install them; its last line is said.
    """
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    made_from = folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if made_from.is_file() and made_from.read_text() == wanted:
        return python
    click.echo(f"making {folder} from {', '.join(requirements)}", err=True)
    venv.create(folder, with_pip=True, clear=True)
    cached = ["--find-links", str(WHEELS)] if WHEELS.is_dir() else []
    command = [str(python), "-m", "pip", "install", "--quiet", *cached, *pip_args, *requirements]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"pip cannot make {folder}: {(done.stderr.strip() or '?').splitlines()[-1]}")
    made_from.write_text(wanted)
    return python
