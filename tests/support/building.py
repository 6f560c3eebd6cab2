"""Knows how a wheel or a source archive of this repository is built, as pip does it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(root, kind, folder):
    """The file that hatchling builds, which is what pip builds with."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory"]
    done = subprocess.run(
        [*command, str(folder)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = Path(folder).iterdir()
    return built
