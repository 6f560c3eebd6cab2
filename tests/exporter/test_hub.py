"""Checkpoints on the Hub, with huggingface_hub patched: what is fetched, in which order, and what
is refused before."""

import json
import shutil
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub
import pytest
import safetensors.torch
from click.testing import CliRunner
from huggingface_hub.errors import HTTPError

from pocketvlm import PocketVLMError
from pocketvlm.cli import main
from pocketvlm_export.loading import open_checkpoint


@pytest.fixture
def hub(copied_checkpoint, tmp_path, monkeypatch):
    """A repository with the files of `copied_checkpoint`; returns the list of patterns that were
    asked for.

    Ranges of its weights are served by `ranges`.
    """
    snapshot = tmp_path / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    requests = []

    def download(model, revision, allow_patterns):
        requests.append((revision, allow_patterns))
        for path in copied_checkpoint.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, snapshot / path.name)
        return str(snapshot)

    def names(model, revision):
        assert revision == "c0ffee"
        return [path.name for path in copied_checkpoint.iterdir()]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", names)
    return requests


@pytest.fixture(autouse=True)
def ranges(copied_checkpoint, monkeypatch):
    """A server of the bytes that a request's range names; returns how many were asked for, by
    file."""
    sent = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            first, last = (int(n) for n in self.headers["range"].removeprefix("bytes=").split("-"))
            content = (copied_checkpoint / name).read_bytes()[first : last + 1]
            sent[name] = sent.get(name, 0) + len(content)
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # the next one reads the environment again
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        api = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(
            huggingface_hub, "parse_safetensors_file_metadata", api.parse_safetensors_file_metadata
        )
        yield sent
        huggingface_hub.close_session()
        server.shutdown()


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


@pytest.mark.parametrize(
    "error", [HTTPError("the read timed out"), ConnectionError("the read timed out")], ids=repr
)
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
    shutil.copyfile(
        copied_checkpoint / "model.safetensors",
        tmp_path / "snapshots" / "c0ffee" / "model.safetensors",
    )
    assert open_checkpoint("org/model").source.commit == "c0ffee"


def dry_run(tmp_path, model="org/model"):
    return CliRunner().invoke(
        main, ["export", str(model), "-o", str(tmp_path / "artifact"), "--dry-run", "--json"]
    )


def test_dry_run_reads_headers_only(hub, ranges, make_tiny, copied_checkpoint, tmp_path):
    """Shards too: the plan is that of the same files in a folder, and no weights are on this
    machine afterwards."""
    shutil.rmtree(copied_checkpoint)
    shutil.copytree(make_tiny("tiny-llama", shard_bytes=600_000), copied_checkpoint)
    shards = {path.name for path in copied_checkpoint.glob("*.safetensors")}
    assert len(shards) > 1
    result = dry_run(tmp_path)
    assert result.exit_code == 0, result.stderr
    here = CliRunner().invoke(
        main, ["export", str(copied_checkpoint), "-o", str(tmp_path / "b"), "--dry-run", "--json"]
    )
    assert json.loads(result.stdout) == json.loads(here.stdout)
    assert len(hub) == 1  # configuration files
    assert ranges.keys() == shards
    assert not list((tmp_path / "snapshots").rglob("*.safetensors"))
    assert not (tmp_path / "artifact").exists()


def test_header_longer_than_the_first_range(hub, ranges, copied_checkpoint, tmp_path):
    path = copied_checkpoint / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "long": "x" * 200_000})
    assert dry_run(tmp_path).exit_code == 0
    assert 200_000 < ranges[path.name] < path.stat().st_size


def test_wrong_budget_is_refused_before_weights_are_fetched(hub, tmp_path):
    result = CliRunner().invoke(
        main, ["export", "org/model", "-o", str(tmp_path / "artifact"), "--budget", "37"]
    )
    assert result.exit_code == 1
    assert "budget 37 is outside 1..36" in result.stderr
    assert len(hub) == 1


def test_dry_run_without_a_network_says_so_in_one_line(hub, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise HTTPError("no network")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    result = dry_run(tmp_path)
    assert result.exit_code == 1
    assert "the weights of org/model are not on this machine" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def header(text):
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        header(b"no JSON"),
        header(
            b'{"language_model.lm_head.weight": {"dtype": "F32", "shape": ["many"], "data_offsets": [0, 4]}}'  # noqa: E501
        ),
        header(b'{"language_model.lm_head.weight": []}'),
    ],
    ids=["empty", "huge", "no JSON", "no shape", "no tensor"],
)
def test_weights_on_the_hub_that_are_none(hub, copied_checkpoint, tmp_path, content):
    (copied_checkpoint / "model.safetensors").write_bytes(content)
    result = dry_run(tmp_path)
    assert result.exit_code == 1
    assert "model.safetensors of org/model is not a safetensors file" in result.stderr
    (refusal,) = result.stderr.splitlines()
    assert refusal.startswith("error: ")
