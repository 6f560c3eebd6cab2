"""Whoever opens an artifact while another takes its place gets one of the two, never some of
each."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError
from pocketvlm.artifact import integrity, replaced
from pocketvlm.files import folders
from pocketvlm.files.folders import content_of, put_in_place, staged
from pocketvlm.files.remembered import read_remembered
from support.tiny_artifact import state_the_id_of, write_artifact

QUESTION = "what is in the picture?"
TIMES = 12  # that an artifact is replaced while it is read
at_once = pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in two steps"])


@pytest.fixture
def place(tmp_path):
    """Two artifacts that state one id and answer differently, and a place for either."""
    write_artifact(tmp_path / "one", seed=0)
    write_artifact(tmp_path / "other", seed=1)
    state_the_id_of(tmp_path / "other", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "artifact")
    return tmp_path / "artifact"


def replace(place: Path, by: Path) -> None:
    before = content_of(place)
    with staged(place) as folder:
        shutil.copytree(by, folder, dirs_exist_ok=True)
        put_in_place(folder, place, before)


def stepwise(monkeypatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(folders, "exchange", lambda *_: False)


def tables(place: Path) -> list[object]:
    return [Artifact.open(place.parent / name).manifest.files for name in ("one", "other")]


def while_replaced(place: Path, read) -> list[object]:
    """What is read, over and over, while the artifact is replaced so many times."""
    ended, results, errors = threading.Event(), [], []

    def work() -> None:
        while not ended.is_set():
            try:
                results.append(read())
            except Exception as error:  # noqa: BLE001
                errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(TIMES):
            replace(place, place.parent / ("other", "one")[number % 2])
    finally:
        ended.set()
        thread.join()
    assert errors == []
    assert results
    return results


@at_once
def test_readers_get_the_old_one_or_the_new_one(place, monkeypatch, at_once):
    stepwise(monkeypatch, at_once)
    expected = tables(place)
    for artifact in while_replaced(place, lambda: Artifact.open(place)):
        assert artifact.manifest.files in expected


@at_once
def test_models_answer_as_the_old_one_or_the_new_one(place, picture, monkeypatch, at_once):
    stepwise(monkeypatch, at_once)

    def answer(folder: Path) -> str:
        vlm = VLM.load(folder, settings=EngineSettings(threads=1))
        return vlm.generate(QUESTION, images=[picture]).text

    expected = [answer(place.parent / name) for name in ("one", "other")]
    assert expected[0] != expected[1]
    assert set(while_replaced(place, lambda: answer(place))) <= set(expected)


def test_one_without_a_file_that_the_old_one_had_is_read(tmp_path, monkeypatch):
    """The name of a file was looked up, and then it is gone: as where precisions differ."""
    place, other = tmp_path / "artifact", tmp_path / "other"
    write_artifact(place, budgets=(6, 12))
    write_artifact(other, budgets=(6,))
    files = Artifact.open(place).manifest.files
    expected = Artifact.open(other).manifest.files
    gone = next(name for name in files if name not in expected)
    read = integrity.sha256_of

    def late(path: Path) -> str:
        if path == place / gone:
            replace(place, other)
        return read(path)

    monkeypatch.setattr(integrity, "sha256_of", late)
    assert Artifact.open(place, "full").manifest.files == expected


def test_a_moment_without_a_folder_is_waited_for(place, monkeypatch):
    """As where two names cannot change places: the old one lies aside."""
    aside = place.with_name(f".{place.name}.0123456789abcdef.old")
    aside.mkdir()
    place.rename(aside / "artifact")
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            (aside / "artifact").rename(place)

    monkeypatch.setattr(replaced.time, "sleep", pause)
    assert Artifact.open(place).manifest.files == tables(place)[0]
    shutil.rmtree(place)
    with pytest.raises(PocketVLMError, match="being replaced all the time"):
        Artifact.open(place)  # of an export that was killed: the next one puts it back
    shutil.rmtree(aside)
    with pytest.raises(PocketVLMError, match="no such folder"):
        Artifact.open(place)


def test_files_of_one_that_was_replaced_since_are_refused(place):
    artifact = Artifact.open(place)
    assert artifact.path("tokenizer.json").is_file()
    replace(place, place.parent / "other")
    for read in (artifact.path, artifact.read_text):
        with pytest.raises(PocketVLMError, match="was replaced since it was opened"):
            read("tokenizer.json")
    assert Artifact.open(place).path("tokenizer.json").is_file()


def test_one_with_the_number_of_the_one_that_was_opened_is_another(place, monkeypatch):
    """Disks give the inode of a folder that was removed to the next one."""
    artifact = Artifact.open(place)
    number = place.stat().st_ino
    replace(place, place.parent / "other")
    plain = Path.stat

    def stat(path, **options):
        info = plain(path, **options)
        if path != place:
            return info
        return SimpleNamespace(st_dev=info.st_dev, st_ino=number, st_mode=info.st_mode)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(PocketVLMError, match="was replaced since it was opened"):
        artifact.path("tokenizer.json")


def test_a_late_decoder_is_of_the_same_artifact_or_refused(place, picture):
    vlm = VLM.load(place, once=True, settings=EngineSettings(threads=1))
    replace(place, place.parent / "other")
    with pytest.raises(PocketVLMError, match="was replaced since it was opened"):
        vlm.generate(QUESTION, images=[picture])


REMEMBER = """
import sys
from pocketvlm.files.remembered import change_remembered
number = int(sys.argv[1])
for row in range(10):
    change_remembered("table.json", 1000, lambda rows: {**rows, f"{number}-{row}": row})
"""


def test_eight_processes_lose_no_row_of_a_table(tmp_path):
    children = [
        subprocess.Popen([sys.executable, "-c", REMEMBER, str(number)]) for number in range(8)
    ]
    assert [child.wait(120) for child in children] == [0] * 8
    rows = {f"{number}-{row}" for number in range(8) for row in range(10)}
    assert set(read_remembered("table.json")) == rows
    assert [path.name for path in (tmp_path / "cache" / "pocketvlm").iterdir()] == ["table.json"]
