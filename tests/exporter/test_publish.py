"""An artifact appears whole or not at all, whatever happens meanwhile."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm import Artifact, PocketVLMError
from pocketvlm.cli import main
from pocketvlm.files import folders
from pocketvlm.files.folders import content_of, put_in_place, staged
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.packaging import (
    check_destination,
    check_keep_failed,
)
from support.processes import heed_interrupts


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def published(tmp_path):
    """A destination that already holds something that looks like an artifact."""
    folder = tmp_path / "out" / "artifact"
    folder.mkdir(parents=True)
    (folder / "pocketvlm.json").write_text("old")
    return folder


def build_into(output, text="new", meanwhile=lambda: None):
    before = content_of(output)
    with staged(output) as folder:
        (folder / "pocketvlm.json").write_text(text)
        meanwhile()
        put_in_place(folder, output, before)


def test_publish_creates_missing_parents(tmp_path):
    build_into(tmp_path / "a" / "b" / "artifact")
    assert files(tmp_path / "a" / "b" / "artifact") == {"pocketvlm.json": b"new"}
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["artifact"]


def test_published_folder_can_be_read_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        build_into(tmp_path / "artifact")
    finally:
        os.umask(mask)
    assert (tmp_path / "artifact").stat().st_mode & 0o777 == 0o755


def test_what_is_replaced_is_as_deep_as_it_likes(published):
    """More levels than Python's calls may have, and than a process may have files open."""
    depth = 1_050
    deepest = published / "/".join("a" * depth)
    for level in range(0, depth, 500):
        (published / "/".join("a" * min(depth, level + 500))).mkdir(parents=True)
    (deepest / "file").write_text("1")
    before = content_of(published)
    assert len(before) == depth + 3  # itself, the manifest and the file
    (deepest / "file").write_text("12")
    assert content_of(published) != before
    build_into(published)
    assert files(published) == {"pocketvlm.json": b"new"}
    assert list(published.parent.iterdir()) == [published]


def test_an_old_artifact_is_replaced(published):
    build_into(published)
    assert files(published) == {"pocketvlm.json": b"new"}
    assert list(published.parent.iterdir()) == [published]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "input/output error"), SystemExit(143)], ids=repr
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_old_artifact_is_never_lost(published, monkeypatch, number, after, error):
    """Interrupted right before or after each rename: the old artifact or the new one, whole, and
    nothing beside it."""
    rename, calls = type(published).rename, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == number and not after:
            raise error
        rename(self, target)
        if len(calls) == number:
            raise error

    monkeypatch.setattr(folders, "exchange", lambda *_: False)  # in two steps
    monkeypatch.setattr(type(published), "rename", interrupted)
    with pytest.raises((PocketVLMError, SystemExit)):
        build_into(published)
    assert files(published) == {
        "pocketvlm.json": b"new" if (number, after) == (4, True) else b"old"
    }
    assert list(published.parent.iterdir()) == [published]


def test_an_old_artifact_that_cannot_be_put_back_is_kept(published, monkeypatch):
    rename, calls = type(published).rename, []
    monkeypatch.setattr(folders, "exchange", lambda *_: False)  # in two steps

    def set_aside_only(self, target):
        calls.append(self)
        if len(calls) > 3:
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(published), "rename", set_aside_only)
    with pytest.raises(PocketVLMError, match="move it back") as refusal:
        build_into(published)
    (kept,) = published.parent.iterdir()
    assert str(kept / "artifact") in str(refusal.value)
    assert files(kept / "artifact") == {"pocketvlm.json": b"old"}


def test_full_disk_in_the_middle(published):
    def fill_the_disk():
        with staged(published) as folder:
            (folder / "half").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PocketVLMError, match="no space left"):
        fill_the_disk()
    assert files(published) == {"pocketvlm.json": b"old"}
    assert list(published.parent.iterdir()) == [published]


def fail_in(output, error):
    with staged(output):
        raise error


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "permission denied"), KeyboardInterrupt()], ids=repr
)
def test_parents_made_for_nothing_are_removed(tmp_path, error):
    (tmp_path / "there").mkdir()
    with pytest.raises((PocketVLMError, KeyboardInterrupt), match=r"permission denied|^$"):
        fail_in(tmp_path / "there" / "a" / "b" / "artifact", error)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("output", [".", "..", "here/.."])
def test_the_folder_one_is_in(tiny_checkpoint, tmp_path, monkeypatch, output):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(PocketVLMError, match="the folder you are in"):
        check_destination(Path(output), tiny_checkpoint, overwrite=True)


def test_a_mount_point(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(PocketVLMError, match="mount point"):
        check_destination(tmp_path, tiny_checkpoint, overwrite=True)


def test_a_file_as_destination(tiny_checkpoint, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "artifact"):
        with pytest.raises(PocketVLMError, match="give a folder"):
            check_destination(output, tiny_checkpoint, overwrite=True)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ("there", "exists already"),
        ("no/parent", "create that folder first"),
        ("artifact", "overlaps"),
        ("artifact/kept", "overlaps"),
        ("checkpoint/kept", "overlaps"),
    ],
)
def test_where_a_failed_export_cannot_be_kept(tmp_path, kept, message):
    (tmp_path / "there").mkdir()
    with pytest.raises(PocketVLMError, match=message):
        check_keep_failed(tmp_path / kept, tmp_path / "artifact", tmp_path / "checkpoint")


def test_no_space_is_said_before_any_work(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(PocketVLMError, match="GB free, the export needs about"):
        export(str(tiny_checkpoint), tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "overwrite", "message"),
    [("pocketvlm.json", False, "give --overwrite"), ("thesis.txt", True, "holds no artifact")],
)
def test_folder_with_content(tiny_checkpoint, tmp_path, content, overwrite, message):
    (tmp_path / content).write_text("mine")
    with pytest.raises(PocketVLMError, match=message):
        export(str(tiny_checkpoint), tmp_path, ExportOptions(overwrite=overwrite))
    assert files(tmp_path) == {content: b"mine"}


def test_destination_inside_the_checkpoint(copied_checkpoint):
    before = files(copied_checkpoint)
    for output in (copied_checkpoint, copied_checkpoint / "artifact", copied_checkpoint.parent):
        with pytest.raises(PocketVLMError, match="never touched"):
            export(str(copied_checkpoint), output, ExportOptions(overwrite=True))
    assert files(copied_checkpoint) == before


def test_overwrite_replaces_an_artifact(tiny_checkpoint, tiny_export, tmp_path):
    output = shutil.copytree(tiny_export, tmp_path / "artifact")
    link = tmp_path / "link"  # it stays, and what it points at is replaced
    link.symlink_to(output)
    export(str(tiny_checkpoint), link, ExportOptions(budgets=(9,), overwrite=True))
    assert link.is_symlink()
    assert Artifact.open(output).manifest.pruning.budgets == (9,)
    assert list(tmp_path.glob(".artifact*")) == []


def test_two_exports_to_one_destination(tiny_checkpoint, tmp_path):
    """The second is refused in a line, whatever it would replace; the first is whole."""
    refusals, options = [], ExportOptions(budgets=(18,), overwrite=True)

    def step(text):
        if text in ("weights", "self-test"):
            with pytest.raises(PocketVLMError, match="another process is writing") as refusal:
                export(str(tiny_checkpoint), tmp_path / "artifact", options)
            refusals.append(str(refusal.value))

    export(str(tiny_checkpoint), tmp_path / "artifact", ExportOptions(budgets=(9,)), step)
    assert len(refusals) == 2
    assert not any("\n" in line for line in refusals)
    assert Artifact.open(tmp_path / "artifact", "full").manifest.pruning.budgets == (9,)
    assert list(tmp_path.glob(".artifact*")) == []


def test_dry_run_writes_nothing(tiny_checkpoint, tiny_export, tmp_path):
    arguments = [
        "export",
        str(tiny_checkpoint),
        "-o",
        str(tmp_path / "artifact"),
        "--budget=9,18",
        "--dry-run",
    ]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    plan = json.loads(result.stdout)
    assert plan["budgets"] == [9, 18]
    assert set(plan["files"]) == {
        f"onnx/{name}.onnx"
        for name in ("vision_encoder", "vision_encoder.k18", "embed_tokens", "decoder_model_merged")
    }
    for name, estimate in plan["files"].items():
        assert (tiny_export / name).stat().st_size <= estimate
    assert "nothing written" in CliRunner().invoke(main, arguments).stdout


def test_an_interrupt_of_a_real_export_leaves_nothing_behind(tiny_checkpoint, tmp_path):
    """Other signals, and other moments, are tried in test_interrupts."""
    output = tmp_path / "out" / "artifact"
    command = [sys.executable, "-m", "pocketvlm", "export", str(tiny_checkpoint), "-o", str(output)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts
    )
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("out/.artifact.*.partial/onnx/*.onnx")):  # in the midst of writing
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == b""
    assert not output.parent.exists()
