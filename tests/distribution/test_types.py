"""Somebody else's typed program against the wheel: mypy --strict knows every public name."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pocketvlm

CONSUMER = Path(__file__).with_name("consumer.py")
WRONG = """
from pocketvlm import VLM, Nonsense

vlm = VLM.load("folder", bugdet=9)
answer: int = vlm.generate("hi").text
"""


def mypy(python, folder, *names):
    """What it prints of files of a folder, by file."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment.pop("MYPYPATH", None)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file", ""]
    command += ["--python-executable", str(python), *names]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    assert lines[-1].endswith(f"(checked {len(names)} source files)"), done.stdout
    return {name: [line for line in lines if line.startswith(f"{name}:")] for name in names}


def test_the_program_uses_every_public_name():
    used = {node.id for node in ast.walk(ast.parse(CONSUMER.read_text())) if hasattr(node, "id")}
    assert set(pocketvlm.__all__) <= used


def test_a_typed_program_and_a_wrong_one(python, tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER.read_text())
    (tmp_path / "wrong.py").write_text(WRONG)
    printed = mypy(python, tmp_path, "consumer.py", "wrong.py")
    assert printed["consumer.py"] == []
    errors = [line for line in printed["wrong.py"] if ": error: " in line]
    assert len(errors) == 3, errors
    for line, text in zip(errors, ("Nonsense", "bugdet", "in assignment"), strict=True):
        assert text in line
