"""Checkpoints on the Hub, with huggingface_hub patched: what is fetched, in which order, and what is refused before."""

import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest
from huggingface_hub.errors import HTTPError

from pocketvlm import PocketVLMError
from pocketvlm_export.loading import open_checkpoint


@pytest.fixture
def hub(copied_checkpoint, tmp_path, monkeypatch):
    """A repository with the files of `copied_checkpoint`; returns the list of patterns that were asked for."""
    snapshot = tmp_path / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    asked = []

    def download(model, revision, allow_patterns):
        asked.append((revision, allow_patterns))
        for path in copied_checkpoint.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, snapshot / path.name)
        return str(snapshot)

    def names(model, revision):
        assert revision == "c0ffee"
        return [path.name for path in copied_checkpoint.iterdir()]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", names)
    return asked


def test_weights_come_last_and_of_the_same_commit(hub):
    checkpoint = open_checkpoint("org/model", "main")
    assert [revision for revision, _ in hub] == ["main", "c0ffee"]
    assert hub[1][1] == ["model.safetensors"]
    assert not any("safetensors" in pattern for pattern in hub[0][1])
    assert checkpoint.source.commit == "c0ffee"
    assert checkpoint.weights.parameters() > 0


@pytest.mark.parametrize(
    ("file", "becomes", "message"),
    [
        ("model.safetensors", "pytorch_model.bin", "org/model holds pickle weights only"),
        ("tokenizer.json", "tokenizer.model", "hf download org/model --local-dir model"),
        ("config.json", "adapter_config.json", "LoRA adapter"),
    ],
)
def test_refused_by_name_before_weights_are_fetched(hub, copied_checkpoint, file, becomes, message):
    (copied_checkpoint / file).rename(copied_checkpoint / becomes)
    with pytest.raises(PocketVLMError, match=message):
        open_checkpoint("org/model")
    assert len(hub) == 1


@pytest.mark.parametrize("error", [HTTPError("the read timed out"), ConnectionError("the read timed out")], ids=repr)
def test_network_that_fails(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(PocketVLMError, match="the read timed out"):
        open_checkpoint("org/model")


def test_network_that_fails_in_the_middle_of_the_weights(hub, monkeypatch):
    download = huggingface_hub.snapshot_download

    def fail_on_weights(model, revision, allow_patterns):
        if any("safetensors" in pattern for pattern in allow_patterns):
            raise HTTPError("the connection was closed")
        return download(model, revision, allow_patterns)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail_on_weights)
    with pytest.raises(PocketVLMError, match="the connection was closed"):
        open_checkpoint("org/model")


def test_without_a_network_the_cache_is_enough(hub, monkeypatch, copied_checkpoint, tmp_path):
    def fail(*_, **__):
        raise HTTPError("no network")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    shutil.copyfile(copied_checkpoint / "model.safetensors", tmp_path / "snapshots" / "c0ffee" / "model.safetensors")
    assert open_checkpoint("org/model").source.commit == "c0ffee"
