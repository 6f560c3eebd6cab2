"""The tool that writes checkpoints writes into a new folder only, whole or not at all; classes of
transformers find every weight there."""

import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText

from make_checkpoint import HUB_PRESETS, PRESETS, make_checkpoint
from make_checkpoint import __main__ as tool
from make_checkpoint.output import new_folder
from pocketvlm import PocketVLMError


def test_what_is_there_stays(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path, tmp_path / "file"):
        monkeypatch.setattr(sys, "argv", ["make_checkpoint", "tiny-llama", "-o", str(output)])
        with pytest.raises(SystemExit, match="2"):
            tool.main()
        assert "exists already" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_it_appears_whole_or_not_at_all(tmp_path):
    output = tmp_path / "a" / "checkpoint"

    def fail(error):
        with new_folder(output) as folder:
            (folder / "config.json").touch()
            raise error

    for error in (ValueError("no such preset"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fail(error)
        assert list(tmp_path.iterdir()) == []
    with new_folder(output) as folder:
        (folder / "config.json").touch()
    assert [path.name for path in output.iterdir()] == ["config.json"]
    with pytest.raises(PocketVLMError, match="exists already"), new_folder(output):
        pass


TINY = {name: preset for name, preset in (PRESETS | HUB_PRESETS).items() if "tiny-" in name}


@pytest.mark.parametrize("name", TINY)
def test_its_class_finds_every_weight(name, tmp_path):
    make_checkpoint(TINY[name], tmp_path)
    _, loaded = AutoModelForImageTextToText.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not loaded["missing_keys"] | set(loaded["unexpected_keys"])
