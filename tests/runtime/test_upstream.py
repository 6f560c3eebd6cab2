"""Private and experimental APIs of other libraries, tried in the versions that are installed."""

import ast
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from jinja2.filters import FILTERS
from tokenizers import Tokenizer, decoders, models

import pocketvlm
from pocketvlm import upstream
from pocketvlm.ort.settings import CPU_PROVIDER

RUNTIME = Path(pocketvlm.__file__).parent


def test_what_onnx_runtime_raises_is_among_its_errors(artifact_dir, tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"no graph")
    with pytest.raises(upstream.ort_errors(), match="Protobuf parsing failed"):
        ort.InferenceSession(tmp_path / "damaged.onnx", providers=[CPU_PROVIDER])
    with pytest.raises(upstream.ort_errors(), match="doesn't exist"):
        ort.InferenceSession(tmp_path / "missing.onnx", providers=[CPU_PROVIDER])
    path = artifact_dir / "onnx" / "embed_tokens.onnx"
    session = ort.InferenceSession(path, providers=[CPU_PROVIDER])
    with pytest.raises(upstream.ort_errors(), match="out of data bounds"):
        session.run(None, {"input_ids": np.full((1, 1), 1 << 40)})
    with pytest.raises(upstream.ort_errors(), match="input_ids"):
        session.run(None, {})


def test_a_decoder_is_what_tokenizer_json_states():
    steps = [decoders.Replace("_", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.Sequence(steps)
    stated = json.loads(tokenizer.to_str())["decoder"]
    assert upstream.decoder_settings(tokenizer.decoder) == stated


def test_which_filters_are_given_their_environment():
    given = {"map", "select", "sum", "join", "groupby", "tojson", "title", "default", "trim"}
    takes = {name for name in given if upstream.takes_its_environment(FILTERS[name])}
    assert takes == {"map", "select", "sum", "join", "groupby", "tojson"}


def test_its_status_exceptions_are_where_they_were():
    """More than the two that every extension module raises, or errors would end in tracebacks."""
    assert {RuntimeError, ValueError} < set(upstream.ort_errors())
    names = {error.__name__ for error in upstream.ort_errors()}
    assert {"Fail", "InvalidArgument", "NoSuchFile", "InvalidGraph", "InvalidProtobuf"} <= names


def test_devices_are_listed_by_provider(monkeypatch):
    listed = upstream.ort_devices([CPU_PROVIDER])
    assert listed
    assert {row[0] for row in listed} == {CPU_PROVIDER}
    assert json.loads(json.dumps(listed)) == json.loads(
        json.dumps(upstream.ort_devices([CPU_PROVIDER]))
    )
    assert upstream.ort_devices(["NoSuchExecutionProvider"]) == []
    monkeypatch.delattr(ort, "get_ep_devices")  # as before 1.23
    assert upstream.ort_devices([CPU_PROVIDER]) == []


def test_without_fallback_nothing_is_tried_again(artifact_dir, monkeypatch, capsys):
    """A provider that fails ends in its error, and standard output stays empty."""
    tried = []

    def fail(self, providers, *_):
        tried.append(providers)
        self._fallback_providers = [CPU_PROVIDER]
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", fail)
    path = artifact_dir / "onnx" / "embed_tokens.onnx"
    with pytest.raises(RuntimeError, match="the device is gone"):
        ort.InferenceSession(path, providers=[CPU_PROVIDER], **upstream.ORT_SESSION_ARGUMENTS)
    assert len(tried) == 1
    assert capsys.readouterr().out == ""
    with pytest.raises(RuntimeError, match="the device is gone"):
        ort.InferenceSession(path, providers=[CPU_PROVIDER])
    assert len(tried) == 3  # what it does by itself


def test_no_session_options_come_from_a_graph(artifact_dir, monkeypatch):
    path = artifact_dir / "onnx" / "embed_tokens.onnx"
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key = "ort_config"
    entry.value = '{"session_options": {"intra_op_num_threads": 7}}'
    onnx.save(model, path)
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")

    def threads(**arguments):
        session = ort.InferenceSession(path, providers=[CPU_PROVIDER], **arguments)
        return session.get_session_options().intra_op_num_threads

    assert threads() == 7
    with pytest.raises(upstream.ort_errors(), match="ORT config"):
        threads(**upstream.ORT_SESSION_ARGUMENTS)
    monkeypatch.delenv("ORT_LOAD_CONFIG_FROM_MODEL")
    assert threads(**upstream.ORT_SESSION_ARGUMENTS) == 0


def test_no_other_module_of_the_runtime_reaches_into_another_library():
    ours = {"pocketvlm", "pocketvlm_targets"}
    documented = {"__future__", "_thread"}  # by Python's own library reference
    private = []
    for file in RUNTIME.rglob("*.py"):
        if file == RUNTIME / "upstream.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] in ours | documented:
                    continue
                if any(part.startswith("_") for part in parts) or {"capi", "experimental"} & {
                    *parts
                }:
                    private.append(f"{file.relative_to(RUNTIME)}: {name}")
    assert private == []
