"""`pocketvlm --version` names the commit: what a wheel recorded, or what git says in a clone."""

import os
import subprocess

import click
import pytest
from click.testing import CliRunner

import pocketvlm
from pocketvlm.cli import COMMANDS, main, release

GIT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder, *arguments):
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, env=GIT
    ).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one\n")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    git(tmp_path, "tag", "--annotate", "v9", "--message", "nine")  # a name instead of the commit
    return tmp_path


def version(monkeypatch, clone):
    monkeypatch.setattr(release, "_CLONE", clone)
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout.removeprefix(f"pocketvlm {pocketvlm.__version__}").strip()


def test_a_clone_names_its_commit(monkeypatch, clone):
    commit = git(clone, "rev-parse", "HEAD")[:7]
    assert version(monkeypatch, clone) == f"({commit})"
    (clone / "unknown").write_text("to git")
    assert version(monkeypatch, clone) == f"({commit})"
    (clone / "file").write_text("two\n")
    assert version(monkeypatch, clone) == f"({commit}+changes)"


def test_where_no_commit_is_known_there_is_the_release_alone(monkeypatch, clone, tmp_path_factory):
    assert version(monkeypatch, tmp_path_factory.mktemp("no-clone")) == ""
    broken = tmp_path_factory.mktemp("broken")
    (broken / ".git").write_text("gitdir: /nowhere\n")
    assert version(monkeypatch, broken) == ""
    monkeypatch.setenv("PATH", "")  # without git
    assert version(monkeypatch, clone) == ""


def test_what_a_wheel_recorded_comes_before_git(monkeypatch, clone, tmp_path):
    module = tmp_path / "release.py"
    (tmp_path / release.RECORDED).write_text("0123abc\n")
    monkeypatch.setattr(release, "__file__", str(module))
    assert version(monkeypatch, clone) == "(0123abc)"
    (tmp_path / release.RECORDED).write_bytes(b"\xff")
    assert version(monkeypatch, clone).startswith(f"({git(clone, 'rev-parse', 'HEAD')[:7]}")


def test_the_traceback_of_a_fault_names_the_release(monkeypatch):
    @click.command()
    def faulty():
        raise ZeroDivisionError("a fault")

    monkeypatch.setitem(main.commands, "faulty", faulty)
    assert "faulty" not in COMMANDS.names()
    result = CliRunner().invoke(main, ["faulty"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exception.__notes__ == [f"pocketvlm {release.this_release()}"]
