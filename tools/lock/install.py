"""``python -m lock.install [PIP_ARGS]``: installs requirements.lock and this repository, editable.

Each file is compared with its hash, nothing is built but this repository, and pip resolves nothing.
It imports nothing but the standard library, as it runs in an environment that is new.

torch is apart: the lock has the CPU build, which PyPI has not for Linux. Where the machine can
have that build, its hash must be right. Where it cannot, constraints.txt names the release, and
torch and what it brings come without hashes; a line says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from lock import CONSTRAINTS, LLAMA_CPP, LOCK, ROOT, TORCH, Locked, read_lock

_NOWHERE = "No matching distribution found"  # pip, of a release that no index or link has


def main(pip_args: Sequence[str]) -> int:
    """Install everything; returns pip's exit status where it fails."""
    described = argparse.ArgumentParser("lock.install", "%(prog)s [PIP_ARGS]", __doc__)
    pip_args = described.parse_known_args(pip_args)[1]  # takes --help alone
    releases = dict(read_lock(LOCK.read_text(encoding="utf-8")))
    torch = releases.pop(TORCH)
    releases.pop(LLAMA_CPP)
    steps = [lambda: _install(releases.values(), pip_args), lambda: _torch(torch, pip_args)]
    steps += [lambda: _pip("install", "--no-deps", "--no-build-isolation", "--no-index", "-e", ".")]
    return next((status for step in steps if (status := step())), 0)


def _torch(torch: Locked, pip_args: Sequence[str]) -> int:
    """The locked build where pip can have it, else the release without hashes."""
    release = f"{TORCH}=={torch.version}"
    asked = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", *pip_args, release]
    answer = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode == 0 or _NOWHERE not in answer.stderr:  # a fault, which comes again
        return _install([torch], pip_args)
    print(f"{release} is not available here: {TORCH} comes without hashes", file=sys.stderr)
    return _pip("install", *pip_args, "--constraint", str(CONSTRAINTS), TORCH)


def _install(releases: Iterable[Locked], pip_args: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / LOCK.name
        requirements.write_text("\n".join(release.line for release in releases) + "\n")
        options = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
        return _pip("install", *options, *pip_args, "--requirement", str(requirements))


def _pip(*arguments: str) -> int:
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
