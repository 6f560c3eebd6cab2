"""Knows how several processes of one test run share what is costly to write."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory, name: str = "") -> Path:
    """The folder ``name`` of this run, for all of its processes; made if it is not there."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process has a folder of its own in that of the run
    folder = base / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_once(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], object]) -> Path:
    """The folder ``name`` of this run, as ``write`` leaves it; the process that needs it first
    writes it and the others wait.

    ``write`` is given the folder, which does not exist yet; what reads it must not change it.
    """
    shared = shared_folder(factory)
    folder, written = shared / name, shared / f"{name}.written"
    with FileLock(shared / f"{name}.lock"):
        if not written.exists():
            write(folder)
            written.touch()
    return folder
