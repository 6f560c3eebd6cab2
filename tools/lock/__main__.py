"""``python -m lock``: writes requirements.lock by uv, out of constraints.txt and the extras.

uv asks PyPI for the hashes of every file of a release. torch's CPU build comes from pip's own
setting of links (``PIP_FIND_LINKS``) or index (``PIP_EXTRA_INDEX_URL``), as it does for pip.
"""

from __future__ import annotations

import os
import subprocess
import sys

import click

from compare_peers.environments import make_environment
from lock import CONSTRAINTS, LOCK, ROOT, UV, read_lock
from pocketvlm.files import replace_file

_EXTRAS = (
    "export",
    "llama",
    "video",
    "grammar",
    "measure",
    "serve",
    "cluster",
    "test",
    "lint",
    "docs",
)
# What `pip install --no-build-isolation -e .` builds with.
_BUILDING = "hatchling\neditables\n"
_HEADER = """\
# Every release that CI installs, with the hashes of its files: Linux on x86-64, CPython 3.11,
# torch's CPU build. Written by `make lock` out of constraints.txt and pyproject.toml; read by
# `LOCKED=1 make install`.
"""


@click.command(help=__doc__)
def main() -> None:
    """Write the lock file again."""
    locked = _HEADER + _compile()
    releases = read_lock(locked)
    if "+cpu" not in releases["torch"].version:
        raise SystemExit("torch's CPU build is not available: set PIP_EXTRA_INDEX_URL to its index")
    replace_file(LOCK, locked.encode())
    print(f"{LOCK.name}: {len(releases)} releases")


def _compile() -> str:
    """The lock as uv writes it."""
    uv = make_environment(ROOT / "build" / "uv", [UV], ()).with_name("uv")
    command = [str(uv), "pip", "compile", "pyproject.toml", "-", "--quiet", "--generate-hashes"]
    command += ["--constraints", CONSTRAINTS.name, "--annotation-style", "line", "--no-header"]
    command += ["--python-version", "3.11.5", "--python-platform", "x86_64-manylinux_2_28"]
    for extra in _EXTRAS:
        command += ["--extra", extra]
    for variable, option in (
        ("PIP_FIND_LINKS", "--find-links"),
        ("PIP_EXTRA_INDEX_URL", "--extra-index-url"),
    ):
        for place in os.environ.get(variable, "").split():
            command += [option, place]
    done = subprocess.run(
        command, cwd=ROOT, input=_BUILDING, text=True, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
