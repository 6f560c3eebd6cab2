"""``python -m oldest [PYTEST_ARGS]``: the runtime's tests with the lowest release of every range;
needs PyPI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import venv

import click

from compare_peers.environments import make_environment
from lock import CONSTRAINTS, ROOT, UV, read_pins
from oldest.choosing import without_exporter

_EXTRAS = ("grammar", "measure", "serve", "video")
# What tests need besides, at the releases of constraints.txt.
_TOOLS = ["allpairspy", "gguf", "httpx2", "hypothesis", "jsonschema", "onnx", "pytest"]
_TOOLS += ["pytest-timeout", "pytest-xdist"]
_FOLDER = ROOT / "build" / "oldest"
_TESTS = ROOT / "tests" / "runtime"


@click.command(help=__doc__, context_settings={"ignore_unknown_options": True})
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def main(pytest_args: tuple[str, ...]) -> None:
    """Make a new environment and run the tests in it; ends with pytest's exit status."""
    uv = str(make_environment(ROOT / "build" / "uv", [UV], ()).with_name("uv"))
    venv.create(_FOLDER, with_pip=False, clear=True)
    python = _FOLDER / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    requirements = _FOLDER / "requirements.txt"
    requirements.write_text(_lowest(uv))
    _run(uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements))
    _run(uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "-e", ".")
    print(requirements.read_text())
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun in the background: tests send it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    files = [str(file.relative_to(ROOT)) for file in without_exporter(_TESTS)]
    # tests/conftest.py exports with torch; none of these tests uses what it has.
    command = [str(python), "-m", "pytest", f"--confcutdir={_TESTS}", *pytest_args, *files]
    unset = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    sys.exit(subprocess.run(command, cwd=ROOT, env=unset, check=False).returncode)


def _lowest(uv: str) -> str:
    pins = read_pins(CONSTRAINTS.read_text(encoding="utf-8"))
    tools = "".join(f"{name}=={pins[name]}\n" for name in _TOOLS)
    extras = [word for extra in _EXTRAS for word in ("--extra", extra)]
    options = ["--quiet", "--no-header", "--no-annotate", "--resolution", "lowest-direct", *extras]
    return _run(uv, "pip", "compile", "pyproject.toml", "-", *options, text=tools)


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(
        command, cwd=ROOT, input=text, text=True, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
