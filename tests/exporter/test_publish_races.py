"""What happens to a destination while an export runs: others' files are never lost, and a kill at
any moment leaves it whole."""

import errno
import itertools
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from pocketvlm import PocketVLMError
from pocketvlm.files import folders
from pocketvlm.files.folders import content_of, put_in_place, staged
from pocketvlm.files.locks import locked
from pocketvlm_export.packaging import keep, replaceable

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
OLD = {"pocketvlm.json": "old", "onnx/a.onnx": "old graph", "onnx/a.onnx_data": "old weights"}
NEW = {"pocketvlm.json": "new", "onnx/a.onnx": "new graph", "tokenizer.json": "new words"}


def write(folder, content):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build_into(output, meanwhile=lambda: None):
    before = content_of(output)
    with staged(output) as folder:
        write(folder, NEW)
        meanwhile()
        put_in_place(folder, output, before)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "artifact"


# What somebody does to the destination while the export runs: to one that was absent, to one that
# held an artifact.
APPEARING = {
    "an artifact": lambda place: write(place, OLD),
    "other files": lambda place: write(place, {"thesis.txt": "mine"}),
    "a file": lambda place: (place.parent.mkdir(exist_ok=True), place.write_text("mine")),
    "a link": lambda place: (place.parent.mkdir(exist_ok=True), place.symlink_to("elsewhere")),
}
CHANGING = {
    "a file more": lambda place: write(place, {"notes.txt": "mine"}),
    "an edited card": lambda place: write(place, {"README.md": "mine"}),
    "a file of the same size": lambda place: (place / "onnx" / "a.onnx").write_text("my graph."),
    "its time put back": lambda place: put_back(place / "onnx" / "a.onnx"),
    "a file less": lambda place: (place / "onnx" / "a.onnx").unlink(),
    "a folder more": lambda place: (place / "mine").mkdir(),
    "another artifact": lambda place: (shutil.rmtree(place), write(place, OLD)),
    "a file in its place": lambda place: (shutil.rmtree(place), place.write_text("mine")),
    "nothing": lambda place: shutil.rmtree(place),
}


def put_back(path):
    info = path.stat()
    path.write_text("my graph."[: info.st_size])
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def state(folder):
    """All that can be told of a place from outside."""
    if folder.is_symlink() or folder.is_file():
        return folder.readlink() if folder.is_symlink() else folder.read_text()
    return read(folder) if folder.exists() else None


@pytest.mark.parametrize("what", APPEARING)
def test_what_appears_meanwhile_stays(output, what):
    with pytest.raises(PocketVLMError, match="has appeared meanwhile") as refusal:
        build_into(output, lambda: APPEARING[what](output))
    assert "\n" not in str(refusal.value)
    expected = output.with_name("expected")
    APPEARING[what](expected)
    assert state(output) == state(expected)
    assert sorted(output.parent.iterdir()) == [output, expected]


@pytest.mark.parametrize("what", CHANGING)
def test_what_changes_meanwhile_stays(output, what):
    write(output, OLD)
    after = []

    def change():
        CHANGING[what](output)
        after.append(state(output))

    with pytest.raises(PocketVLMError, match="has changed meanwhile"):
        build_into(output, change)
    assert [state(output)] == after
    assert list(output.parent.iterdir()) == ([output] if output.exists() else [])


@pytest.mark.parametrize("what", APPEARING)
@pytest.mark.parametrize(("at_once", "number"), [(True, 1), (False, 3), (False, 4)])
def test_what_appears_between_two_renames_stays(output, monkeypatch, what, at_once, number):
    """Right before the old artifact is set aside, it is in the way; right after, where the two do
    not change places in one step, the old one lies aside, and is named."""
    write(output, OLD)
    if not at_once:
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    rename, calls = Path.rename, []

    def racing(self, target):
        calls.append(self)
        if len(calls) == number:
            if number != 4:
                shutil.rmtree(output)
            APPEARING[what](output)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", racing)
    with pytest.raises(PocketVLMError, match=r"has changed|its old content is in") as refusal:
        build_into(output)
    monkeypatch.undo()
    expected = output.with_name("expected")
    APPEARING[what](expected)
    assert state(output) == state(expected)
    if number == 4:
        (aside,) = output.parent.glob(".artifact.*.old")
        assert str(aside / "artifact") in str(refusal.value)
        assert read(aside / "artifact") == OLD


def test_what_may_be_replaced_is_an_artifact_and_nothing_is_read_but_that(output, monkeypatch):
    write(output, {"thesis.txt": "mine"})
    monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("looked into it"))
    assert replaceable(output, overwrite=False) == replaceable(output, overwrite=True) == ()
    monkeypatch.undo()
    write(output, OLD)
    assert replaceable(output, overwrite=False) == ()
    assert replaceable(output, overwrite=True) == content_of(output) != ()

    def unreadable(_):
        raise PermissionError(errno.EACCES, "permission denied")

    monkeypatch.setattr(os, "scandir", unreadable)
    with pytest.raises(PocketVLMError, match=r"cannot be read \(permission denied\)"):
        replaceable(output, overwrite=True)


@pytest.mark.parametrize("there", [False, True])
def test_an_empty_folder_is_replaced(output, there):
    if there:
        output.mkdir(parents=True)
    build_into(output, lambda: output.mkdir(exist_ok=True))
    assert read(output) == NEW


@posix
def test_two_exports_to_one_name(output):
    """The second is refused before any work, whatever name it uses; it may begin once the first has
    ended."""
    (output.parent.parent / "link").symlink_to(output.parent)
    (at_work, working), (goes_on, go_on) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(at_work)
        try:
            build_into(output, lambda: (os.close(working), os.read(goes_on, 1)))
        finally:
            os._exit(0)
    os.close(working)
    os.read(at_work, 1)
    for name in (output, output.parent.parent / "link" / "artifact"):
        with pytest.raises(PocketVLMError, match="another process is writing") as refusal:
            build_into(name)
        assert refusal.value.advice == "wait until it has ended, or choose another folder"
        assert refusal.value.setting == "output"
    assert not output.exists()
    os.write(go_on, b"!")
    os.waitpid(child, 0)
    assert read(output) == NEW
    build_into(output)
    assert list(output.parent.iterdir()) == [output]


# Every call of these is one moment at which a process may be killed.
OPERATIONS = ("rename", "mkdir", "rmdir", "unlink", "link", "open", "chmod", "fsync")


def killed_at(number, work):
    """Run ``work`` in a child that is killed right before its operation of that number, which is
    right after the one before; returns whether it came so far."""
    child = os.fork()
    if not child:
        try:
            counter = itertools.count()

            def counted(operation):
                def run(*arguments, **options):
                    if next(counter) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return operation(*arguments, **options)

                return run

            for name in OPERATIONS:
                setattr(os, name, counted(getattr(os, name)))
            folders.exchange = counted(folders.exchange)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@posix
@pytest.mark.parametrize(
    ("there", "at_once"),
    [(False, True), (True, True), (True, False)],
    ids=["absent", "replaced", "replaced in two steps"],
)
def test_a_kill_at_any_moment_leaves_the_destination_whole(
    output, caplog, monkeypatch, there, at_once
):
    points, outcomes = 0, set()
    if not at_once:
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    expected = [OLD, NEW] if there else [NEW, None]
    expected += [] if at_once else [None]
    for number in itertools.count():
        shutil.rmtree(output.parent, ignore_errors=True)
        if there:
            write(output, OLD)
        if not killed_at(number, lambda: build_into(output)):
            break
        points += 1
        left = {path for path in output.parent.glob(".*") if path.suffix != ".lock"}
        left_there = state(output)
        assert left_there in expected
        caplog.clear()
        if output.parent.exists():
            with staged(output):
                pass
        # The next export names all that was left, and removes it; what was aside is back.
        assert all(str(path) in caplog.text for path in left)
        afterwards = state(output)
        assert afterwards == (left_there or (OLD if there else None))
        if output.parent.exists():
            assert list(output.parent.iterdir()) == ([output] if afterwards else [])
        outcomes.add((left_there is None, json.dumps(afterwards)))
    assert points >= (25 if there else 15)
    assert len(outcomes) == (2 if at_once else 3)
    assert read(output) == NEW


@posix
def test_a_kill_while_the_next_export_cleans_up(output):
    """The old artifact, set aside by an export that was killed, survives that too."""
    aside = output.parent / ".artifact.0123456789abcdef.old"
    for number in itertools.count():
        shutil.rmtree(output.parent, ignore_errors=True)
        write(aside / "artifact", OLD)
        note = {"successor": [1, 2], "before": ""}
        (aside / "successor").write_text(json.dumps(note))
        (output.parent / ".artifact.0123456789abcdef.partial").mkdir()

        def begin():
            with staged(output):
                pass

        killed = killed_at(number, begin)
        begin()
        assert read(output) == OLD
        assert list(output.parent.iterdir()) == [output]
        if not killed:
            break
    assert number >= 8


def test_what_is_not_ours_is_not_cleaned_up(output, caplog):
    mine = output.parent / "mine"
    names = [".artifact.abc.partial", ".artifact.partial", ".other.0123456789abcdef.partial"]
    for name in names:
        write(output.parent / name, {"thesis.txt": "mine"})
    mine.mkdir()
    (output.parent / ".artifact.0123456789abcdef.partial").symlink_to(mine)
    before = set(output.parent.iterdir())
    build_into(output)
    assert set(output.parent.iterdir()) == before | {output}
    assert not caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can")
@pytest.mark.parametrize("suffix", [".partial", ".old"])
def test_what_another_user_planted_is_not_put_in_place(output, caplog, suffix):
    planted = output.parent / f".artifact.0123456789abcdef{suffix}"
    write(planted / "artifact", {"planted.txt": "not ours"})
    os.chown(planted, 65534, 65534)
    build_into(output)
    assert not (output / "planted.txt").exists()
    assert (planted / "artifact" / "planted.txt").exists()


def test_an_artifact_that_lies_aside_while_another_took_its_place_is_named(output, caplog):
    aside = output.parent / ".artifact.0123456789abcdef.old"
    write(aside / "artifact", OLD)
    write(output, {"pocketvlm.json": "of a third"})
    build_into(output)
    assert f"its old content is in {aside / 'artifact'}" in caplog.text
    assert read(aside / "artifact") == OLD
    assert read(output) == NEW


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["fsync", "rename", "mkdir", "chmod"])
@pytest.mark.parametrize("there", [False, True], ids=["absent", "replaced"])
def test_errors_of_the_disk_are_one_line(output, monkeypatch, there, operation, error):
    """At each call of each kind, one after the other."""
    real = getattr(os, operation)
    tried = 0
    for number in itertools.count():
        shutil.rmtree(output.parent, ignore_errors=True)
        if there:
            write(output, OLD)
        counter = itertools.count()

        def fail(*arguments, number=number, counter=counter, **options):
            if next(counter) == number:
                raise OSError(error, os.strerror(error))
            return real(*arguments, **options)

        monkeypatch.setattr(os, operation, fail)
        refusals = []
        try:
            build_into(output)
        except PocketVLMError as refusal:
            refusals.append(str(refusal))
        finally:
            monkeypatch.undo()
        assert not any("\n" in line for line in refusals)
        expected = NEW if not refusals else OLD if there else None
        assert state(output) == expected
        if output.parent.exists():
            assert list(output.parent.iterdir()) == ([output] if expected else [])
        if next(counter) <= number:  # it was not called so often
            break
        tried += 1
    assert tried >= 1


def test_a_rejected_folder_is_not_put_into_what_appeared(tmp_path):
    rejected = tmp_path / "rejected"
    write(rejected, NEW)
    for number, make in enumerate(APPEARING.values()):
        kept = tmp_path / f"kept{number}"
        make(kept)
        before = state(kept)
        with pytest.raises(PocketVLMError, match=r"--keep-failed .* cannot be written"):
            keep(rejected, kept)
        assert state(kept) == before
    assert read(rejected) == NEW
    keep(rejected, tmp_path / "kept")
    assert read(tmp_path / "kept") == NEW


def test_a_rejected_folder_is_kept_on_another_disk(tmp_path, monkeypatch):
    rejected = tmp_path / "rejected"
    write(rejected, NEW)

    def across(*_):
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "rename", across)
    keep(rejected, tmp_path / "kept")
    assert read(tmp_path / "kept") == NEW


def test_a_lock_is_taken_over_in_another_thread_once_it_is_free(output):
    output.parent.mkdir()
    with locked(output, advice="wait"):
        refused = []

        def attempt():
            try:
                build_into(output)
            except PocketVLMError as error:
                refused.append(error)

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        assert len(refused) == 1
    build_into(output)
    assert read(output) == NEW
