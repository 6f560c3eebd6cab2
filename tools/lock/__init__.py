"""Knows requirements.lock: every release that CI installs, with the hashes of its files.

``make lock`` writes it out of constraints.txt and the extras; ``LOCKED=1 make install`` installs it
(`lock.install`). It is of Linux on x86-64 with CPython 3.11 and torch's CPU build; constraints.txt
is for everybody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
CONSTRAINTS = ROOT / "constraints.txt"
UV = "uv==0.13.9"  # MIT or Apache-2.0; a maintainer's tool, which CI does not install
# Installed by itself: a machine may have another build of it, see `lock.install`.
TORCH = "torch"
# PyPI has it as source alone, and a test can do without it: tools/install_llama_cpp.py.
LLAMA_CPP = "llama-cpp-python"
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)")


@dataclass(frozen=True)
class Locked:
    """One release of a lock file: its name as PyPI writes it, its version, its line for pip."""

    name: str
    version: str
    line: str


def read_lock(text: str) -> Mapping[str, Locked]:
    """Every release of a lock file by its name; raises ValueError for a line that has no hash."""
    joined = text.replace("\\\n", " ")
    releases = {}
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _REQUIREMENT.match(line)
        if match is None:
            raise ValueError(f"{line!r} is not a release with hashes")
        name = normal(match[1])
        releases[name] = Locked(name, match[2], " ".join(match[0].split()))
    return releases


def normal(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503); pip alone is installed where this runs."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> Mapping[str, str]:
    """{name: version} of a constraints file."""
    pins = (line.partition("==") for line in text.splitlines() if "==" in line)
    return {normal(name): version.strip() for name, _, version in pins}
