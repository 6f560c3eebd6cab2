"""``python -m bare WHEEL ARTIFACT PICTURE [PIP_ARGS]``: installs a wheel into a new environment and
asks it; needs PyPI, or pip's cache.

The environment has the wheel and what it requires, at the releases of constraints.txt. The command
runs in an empty folder, without this repository's variables; its answer must be the one that this
environment gives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import click

from lock import CONSTRAINTS

# What a program needs of its surroundings; PYTHONPATH, VIRTUAL_ENV and the rest stay behind.
_KEPT = ("HOME", "LANG", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
_NOT_ON_A_DEVICE = {"torch", "transformers", "onnx", "onnxscript"}
_BIN = "Scripts" if sys.platform == "win32" else "bin"
_FILE = click.Path(path_type=Path, exists=True, resolve_path=True)


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("wheel", type=_FILE)
@click.argument("artifact", type=_FILE)
@click.argument("picture", type=_FILE)
@click.argument("pip_args", nargs=-1, type=click.UNPROCESSED)
def main(wheel: Path, artifact: Path, picture: Path, pip_args: tuple[str, ...]) -> None:
    """Install, ask, compare; ends with what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        scripts, empty = Path(folder) / "venv" / _BIN, Path(folder) / "empty"
        empty.mkdir()
        install = [str(scripts / "python"), "-m", "pip", "install", "--quiet"]
        constrained = ["--constraint", str(CONSTRAINTS), *pip_args, str(wheel)]
        subprocess.run([*install, *constrained], check=True, cwd=empty)
        answer = _ask(scripts, artifact, picture, empty)
        here = _ask(Path(sys.executable).parent, artifact, picture, empty)
        installed = _installed(scripts)
    if brought := installed & _NOT_ON_A_DEVICE:
        raise SystemExit(f"the wheel brings {', '.join(sorted(brought))}")
    if answer["token_ids"] != here["token_ids"]:
        raise SystemExit(f"it answers {answer['text']!r}, this environment {here['text']!r}")
    print(f"{wheel.name} alone, {len(installed)} packages: {str(answer['text']).strip()}")


def _ask(scripts: Path, artifact: Path, picture: Path, folder: Path) -> dict[str, object]:
    command = [str(scripts / "pocketvlm"), "run", str(artifact), "--image", str(picture)]
    command += ["--prompt", "Describe the picture.", "--json"]
    variables = {name: os.environ[name] for name in _KEPT if name in os.environ}
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"it does not answer: {done.stderr.strip()}")
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def _installed(scripts: Path) -> set[str]:
    command = [str(scripts / "python"), "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {package["name"] for package in json.loads(listed)} - {"pip", "setuptools"}


if __name__ == "__main__":
    main()
