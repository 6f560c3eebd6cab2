"""Which device has passed is remembered, for as long as nothing has changed, where nobody else can
write."""

import json
import os
import stat

import pytest

from pocketvlm import VLM, EngineSettings, Provider
from pocketvlm.errors import EngineError
from pocketvlm.ort.settings import CPU_PROVIDER
from pocketvlm.selftest import running
from support.self_tests import OTHER, scale_weights
from support.tiny_artifact import read_manifest, write_manifest


@pytest.fixture
def runs(monkeypatch):
    """The checks that were computed, a list for each self-test."""
    computed = []

    def note(artifact, settings, checks):
        computed.append([name for each in checks for name in each.names])
        return running.run_self_test(artifact, settings, checks)

    monkeypatch.setattr("pocketvlm.selftest.trust.run_self_test", note)
    return computed


def test_a_pass_is_remembered(tested_dir, runs, checksum_cache):
    table = checksum_cache.with_name("trusted.json")
    VLM.load(tested_dir)
    assert not table.exists()
    VLM.load(tested_dir, settings=OTHER)
    VLM.load(tested_dir, settings=OTHER, context=24, check="full")
    assert runs == [["image vision k=6 fp32", "image onnx fp32 behind vision fp32"]]
    VLM.load(tested_dir, settings=OTHER, budget=12)
    VLM.load(tested_dir, settings=OTHER, budget=12)
    assert runs[1:] == [["image vision k=12 fp32", "image onnx fp32 behind vision fp32"]]
    (passed,) = json.loads(table.read_text()).values()
    assert len(passed) == 3
    if os.name == "posix":
        assert stat.S_IMODE(table.stat().st_mode) == 0o600


def test_anything_that_may_compute_otherwise_is_tested_again(tested_dir, runs, monkeypatch):
    VLM.load(tested_dir, settings=OTHER)
    changed = [
        EngineSettings(providers=(*OTHER.providers, Provider(CPU_PROVIDER))),
        EngineSettings(providers=(Provider("AzureExecutionProvider", {"a": 1}),)),
        EngineSettings(providers=OTHER.providers, prepack=False),
    ]
    for settings in changed:
        VLM.load(tested_dir, settings=settings)
    assert len(runs) == 4
    monkeypatch.setattr("pocketvlm.selftest.trust.platform.node", lambda: "another")
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 5
    monkeypatch.setattr("onnxruntime.__version__", "99.0")
    monkeypatch.setattr("pocketvlm.artifact._check_requirements", lambda *_: None)
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 6


def test_other_files_behind_the_same_id_are_tested_again(tested_dir, runs):
    VLM.load(tested_dir, settings=OTHER)
    scale_weights(tested_dir, "onnx/vision_encoder.onnx", "patch", 1.1)
    with pytest.raises(EngineError):
        VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"a": 1}', "[" * 100_000])
def test_a_damaged_table_is_found_out_anew(text, tested_dir, runs, checksum_cache):
    VLM.load(tested_dir, settings=OTHER)
    table = checksum_cache.with_name("trusted.json")
    table.write_text(text)
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2


@pytest.mark.parametrize("row", [None, 1, "image vision k=6 fp32", {}, [["image"]], [1, None]])
def test_damaged_rows_are_no_passes(row, tested_dir, runs, checksum_cache):
    VLM.load(tested_dir, settings=OTHER)
    table = checksum_cache.with_name("trusted.json")
    table.write_text(json.dumps(dict.fromkeys(json.loads(table.read_text()), row)))
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions of others")
def test_a_table_that_others_may_write_is_not_believed(tested_dir, runs, checksum_cache):
    VLM.load(tested_dir, settings=OTHER)
    checksum_cache.with_name("trusted.json").chmod(0o666)
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2


def test_a_folder_that_cannot_be_written_is_no_reason_to_refuse(tested_dir, monkeypatch, runs):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    VLM.load(tested_dir, settings=OTHER)
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2


def test_what_is_refused_anyhow_is_refused_as_ever(tested_dir):
    from pocketvlm.errors import RequestError

    for wrong in (
        {"vision_precision": "int3"},
        {"decoder_precision": "int3"},
        {"decoder": "none"},
        {"budget": 99},
    ):
        with pytest.raises(RequestError) as here:
            VLM.load(tested_dir, settings=OTHER, **wrong)
        with pytest.raises(RequestError) as there:
            VLM.load(tested_dir, **wrong)
        assert str(here.value) == str(there.value)


def test_a_self_test_that_says_nothing_of_a_graph(tested_dir):
    from pocketvlm.errors import ArtifactError

    data = read_manifest(tested_dir)
    graphs = data["vision"]["graphs"]["6"]
    graphs["int8"] = graphs["fp32"]
    data["vision"]["graphs"]["12"]["int8"] = data["vision"]["graphs"]["12"]["fp32"]
    write_manifest(tested_dir, data)
    with pytest.raises(ArtifactError, match="says nothing of image vision k=6 int8"):
        VLM.load(tested_dir, vision_precision="int8", settings=OTHER)


def test_another_provider_of_the_vision_graphs_is_tested(tested_dir, runs):
    settings = EngineSettings(vision_providers=OTHER.providers)
    vlm = VLM.load(tested_dir, settings=settings)
    assert vlm.parts.viewer.encoder.provider == OTHER.providers[0].name
    VLM.load(tested_dir, settings=settings)
    assert len(runs) == 1
    VLM.load(tested_dir, settings=OTHER)
    assert len(runs) == 2
