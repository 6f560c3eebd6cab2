"""Processes that are spawned import nothing out of the current folder."""

import subprocess
import sys

import pytest

SCRIPT = """
import os
import multiprocessing
from pocketvlm.files.spawning import spawn_context

if __name__ == "__main__":
    process = {context}.Process(target=os.getpid)
    process.start()
    process.join(60)
    print(process.exitcode)
"""
PLANTED = "open('planted', 'w').close(); raise SystemExit(7)"


@pytest.mark.parametrize(
    ("context", "is_run"),
    [("spawn_context()", False), ("multiprocessing.get_context('spawn')", True)],
)
def test_a_planted_module_is_not_run(context, is_run, tmp_path):
    """The plain context is beside it, as without it the plant might do nothing at all."""
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "main.py").write_text(SCRIPT.format(context=context))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "multiprocessing.py").write_text(PLANTED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program" / "main.py")],
        cwd=tmp_path / "folder",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["7" if is_run else "0"], done.stderr
    assert (tmp_path / "folder" / "planted").exists() is is_run
