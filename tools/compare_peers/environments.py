"""Knows how a peer gets an environment of its own, made from package names and kept for the next
run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import click

from install_llama_cpp import pinned

ROOT = Path(__file__).parents[2]


def make_environment(folder: Path, requirements: Sequence[str], pip_args: Sequence[str]) -> Path:
    """The environment's Python; made where it is missing, or was made from other requirements.

    A requirement that begins with ``!`` is uninstalled again: a package requires it, and works
    without.

    Raises:
        click.ClickException: pip cannot install them; the message has its last line.
    """
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    made_from = folder / "requirements.txt"
    listed = "\n".join(requirements) + "\n" + _own_sources(requirements)
    if made_from.is_file() and made_from.read_text() == listed:
        return python
    click.echo(f"making {folder} from {', '.join(requirements)}", err=True)
    venv.create(folder, with_pip=True, clear=True)
    native = (
        ["--find-links", str(native_llama_cpp(folder.parent / "wheels"))]
        if _needs_llama_cpp(listed)
        else []
    )
    installed = [name for name in requirements if not name.startswith("!")]
    unwanted = [name.removeprefix("!") for name in requirements if name.startswith("!")]
    steps = [["install", "--quiet", *native, *pip_args, *installed]]
    steps += [["uninstall", "--quiet", "--yes", *unwanted]] if unwanted else []
    for step in steps:
        command = [str(python), "-m", "pip", *step]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise click.ClickException(
                f"pip cannot make {folder}: {(done.stderr.strip() or '?').splitlines()[-1]}"
            )
    made_from.write_text(listed)
    return python


def native_llama_cpp(folder: Path) -> Path:
    """The folder with a wheel compiled for this CPU, as a user would compile it; takes minutes when
    it is new.

    CMAKE_ARGS applies: the native build of 0.3.36 crashes in the picture encoder on CPUs with AMX,
    one with ``-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON
    -DGGML_AVX512_BF16=ON`` does not.
    """
    if not list(folder.glob("llama_cpp_python-*.whl")):
        click.echo("compiling llama-cpp-python for this CPU", err=True)
        build = [
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
            "--no-binary",
            "llama_cpp_python",
        ]
        subprocess.run(
            [sys.executable, "-m", "pip", *build, "--wheel-dir", str(folder), pinned()], check=True
        )
    return folder


def _own_sources(requirements: Sequence[str]) -> str:
    """A line that changes with our own package, where it is one of the requirements: an
    environment keeps a copy of it."""
    if not any(requirement.startswith(".") for requirement in requirements):
        return ""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "runtime").rglob("*.py")):
        digest.update(file.read_bytes())
    return f"# {digest.hexdigest()}\n"


def _needs_llama_cpp(requirements: str) -> bool:
    return "llama" in requirements
