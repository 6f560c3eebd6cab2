"""Knows which PocketVLM this is: its release, and the commit that it was made of.

A wheel has the commit in ``commit.txt``, which hatch_build.py writes by `commit_of` of this module
(so that nothing but the standard library is imported here). In a clone git is asked.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

RECORDED = "commit.txt"  # beside this file in a wheel
_CLONE = Path(__file__).parents[3]  # the root, where this file lies in runtime/ of a clone
_SECONDS = 10  # for git, which reads the state of every file


def this_release() -> str:
    """The release and the commit, as ``0.1.0 (abc1234)``; the release alone where no commit is
    known."""
    from pocketvlm import __version__

    commit = recorded_commit() or commit_of(_CLONE)
    return f"{__version__} ({commit})" if commit else __version__


def recorded_commit() -> str | None:
    """The commit that was recorded when this was built, None in a clone."""
    try:
        return Path(__file__).with_name(RECORDED).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def commit_of(root: Path) -> str | None:
    """The commit that a clone is at, as ``abc1234``, or ``abc1234+changes`` where files that git
    knows differ from it; None where ``root`` is not a clone, or git does not answer."""
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+changes"]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
