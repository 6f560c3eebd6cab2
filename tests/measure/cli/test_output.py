"""What a command that measures cannot write is refused before it measures."""

import os
from pathlib import Path

import pytest

from pocketvlm import PocketVLMError
from pocketvlm_measure.cli.output import check_outputs


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}")
    return tmp_path / "data.jsonl"


def test_files_that_can_be_written(tmp_path, data):
    (tmp_path / "old.html").write_text("old")
    check_outputs([tmp_path / "new.html", tmp_path / "old.html"], [data, tmp_path / "missing.png"])
    check_outputs([Path(os.devnull), Path(os.devnull)], [data])
    check_outputs([])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["missing/a.html"], "no such folder"),
        (["data.jsonl/a.html"], "no such folder"),
        (["folder"], "folder is a folder"),
        (["data.jsonl"], "data.jsonl is read by this command"),
        (["a.html", "folder/../data.jsonl"], "data.jsonl is read by this command"),
        (["link.jsonl"], "link.jsonl is read by this command"),
        (["a.html", "a.html"], "a.html is named for two outputs"),
        (["a.html", "folder/../a.html"], "a.html is named for two outputs"),
    ],
)
def test_what_cannot_be_written(tmp_path, data, names, problem):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(data)
    with pytest.raises(PocketVLMError, match=problem.replace(".", r"\.")) as refusal:
        check_outputs([tmp_path / name for name in names], [data])
    assert "\n" not in str(refusal.value)
    assert data.read_text() == "{}"
