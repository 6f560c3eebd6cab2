"""Locks on a path: one holder among processes, threads and names; nothing is left behind."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pocketvlm import files
from pocketvlm.errors import RequestError
from pocketvlm.files import locks
from pocketvlm.files.folders import staged
from pocketvlm.files.locks import locked

HOLD = """
import sys
from pathlib import Path
from pocketvlm.files.locks import locked
with locked(Path(sys.argv[1]), advice="wait"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    """A process that holds ``path`` until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def take(path: Path) -> None:
    with locked(path, advice="wait", setting="answers"):
        pass


def test_another_process_is_kept_out_and_let_in_afterwards(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    process = holder(path)
    with pytest.raises(RequestError) as refused:
        take(path)
    assert (refused.value.found, refused.value.advice, refused.value.setting) == (
        f"another process is writing {path}",
        "wait",
        "answers",
    )
    take(tmp_path / "b.jsonl")  # its neighbour is free
    process.communicate()
    take(path)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_nothing_locked(tmp_path: Path):
    path = tmp_path / "out"
    process = holder(path)
    process.kill()
    process.communicate()
    assert (tmp_path / ".out.lock").exists()
    take(path)
    assert list(tmp_path.iterdir()) == []


def test_threads_and_names_of_one_folder_share_a_lock(tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    names = [
        folder,
        tmp_path / "link",
        tmp_path / "out" / ".." / "out",
        Path(os.path.relpath(folder)),
    ]
    names[1].symlink_to(folder)
    refusals = []

    def try_it(name: Path) -> None:
        try:
            take(name)
        except RequestError as error:
            refusals.append(error)

    with locked(folder, advice="wait"):
        threads = [threading.Thread(target=try_it, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refusals) == len(names)
    for name in names:
        take(name)


def test_one_of_many_is_inside_at_any_time(tmp_path: Path):
    path, inside, most = tmp_path / "a", [0], [0]
    entered = [0]

    def enter_often() -> None:
        for _ in range(200):
            try:
                with locked(path, advice="wait"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    entered[0] += 1
                    inside[0] -= 1
            except RequestError:
                continue

    threads = [threading.Thread(target=enter_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert entered[0] >= 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "folder", "no folder"])
def test_what_is_no_lock_file_is_refused_and_left_alone(tmp_path: Path, kind: str):
    path, victim = tmp_path / "a", tmp_path / "victim"
    if kind == "link":
        (tmp_path / ".a.lock").symlink_to(victim)
    elif kind == "folder":
        (tmp_path / ".a.lock").mkdir()
    else:
        path = tmp_path / "missing" / "a"
    with pytest.raises(RequestError, match="a cannot be locked"):
        take(path)
    assert not victim.exists()


def test_without_locks_what_another_run_builds_is_named_and_stays(tmp_path, monkeypatch, caplog):
    """Nobody can tell whether that run has ended."""

    def unknown(_descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "try_lock", unknown)
    with staged(tmp_path / "out") as first:
        (first / "weights").touch()
        with staged(tmp_path / "out"):
            assert (first / "weights").exists()
    assert f"{first} is of another run" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing is locked")
def test_a_disk_that_locks_what_is_open_for_writing_alone(tmp_path: Path, monkeypatch):
    """As NFS does, and raises EBADF for everything else."""
    import fcntl

    def locked(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(files, "try_lock", locked)
    monkeypatch.setattr(locks, "try_lock", locked)
    left = files.fresh_name(tmp_path / "a.json", ".tmp")
    left.write_text("half of it")
    files.replace_file(tmp_path / "a.json", b"whole")
    with locks.locked(tmp_path / "a.json", advice="wait") as is_certain:
        assert is_certain
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
