"""How engines are set up: what is refused, and that sessions get what was asked for."""

import os
import pickle
from dataclasses import FrozenInstanceError

import onnx
import onnxruntime as ort
import pytest

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Provider
from pocketvlm.artifact import metadata
from pocketvlm.decoders import open_decoder
from pocketvlm.errors import RequestError
from pocketvlm.ort.sessions import open_session
from pocketvlm.ort.settings import CPU_PROVIDER, physical_cores
from support.tiny_artifact import read_manifest, write_manifest


def open_embed(folder, settings):
    artifact = Artifact.open(folder)
    name = next(iter(artifact.manifest.decoder.embed.values()))
    return open_session(artifact, name, metadata.EMBED_TOKENS, settings=settings)


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_that_no_machine_has_use_for_are_refused(threads):
    with pytest.raises(RequestError, match=f"threads={threads}: expected 1..") as refusal:
        EngineSettings(threads=threads)
    assert refusal.value.setting == "threads"
    assert str(4 * os.cpu_count()) in refusal.value.expected


@pytest.mark.parametrize("name", ["NoSuchExecutionProvider", ""])
def test_a_provider_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(RequestError) as refusal:
        EngineSettings(providers=(Provider(CPU_PROVIDER), Provider(name)))
    assert refusal.value.setting == "providers"
    for available in ort.get_available_providers():
        assert available in str(refusal.value)


@pytest.mark.parametrize("threads", ["2", 2.5, 2.0, True])
def test_threads_are_a_whole_number(threads):
    with pytest.raises(RequestError, match=r"threads is of type .*: expected a wh") as refusal:
        EngineSettings(threads=threads)
    assert refusal.value.setting == "threads"


@pytest.mark.parametrize("providers", [(CPU_PROVIDER,), [CPU_PROVIDER], CPU_PROVIDER, None, (1,)])
def test_providers_are_refused_where_they_are_none(providers):
    with pytest.raises(RequestError, match=r"of type .*: expected a tuple of") as refusal:
        EngineSettings(providers=providers)
    assert refusal.value.setting == "providers"


def test_no_provider_at_all_is_refused():
    with pytest.raises(RequestError, match="no execution provider"):
        EngineSettings(providers=())


def test_settings_are_values():
    options = {"arena_extend_strategy": "kSameAsRequested"}
    first, second = (
        EngineSettings(threads=1, providers=[Provider(CPU_PROVIDER, options)]) for _ in range(2)
    )
    assert first == second != EngineSettings(threads=1)
    assert len({first, second, EngineSettings(threads=1), EngineSettings()}) == 3
    assert pickle.loads(pickle.dumps(first)) == first
    options["arena_extend_strategy"] = "kNextPowerOfTwo"
    assert first == second
    assert first.providers[0].options == {"arena_extend_strategy": "kSameAsRequested"}
    with pytest.raises(FrozenInstanceError):
        first.threads = 2


def test_a_session_has_the_threads_and_providers_asked_for(artifact_dir):
    providers = (Provider(CPU_PROVIDER, {"arena_extend_strategy": "kSameAsRequested"}),)
    session = open_embed(artifact_dir, EngineSettings(threads=2, providers=providers))
    assert session.get_session_options().intra_op_num_threads == 2
    assert session.get_providers() == [CPU_PROVIDER]


def test_every_layer_passes_them_on(artifact_dir, monkeypatch):
    opened = []
    real = ort.InferenceSession

    def note(path, options, **arguments):
        opened.append((options.intra_op_num_threads, arguments["providers"]))
        return real(path, options, **arguments)

    monkeypatch.setattr("pocketvlm.ort.sessions.ort.InferenceSession", note)
    options = {"arena_extend_strategy": "kSameAsRequested"}
    settings = EngineSettings(threads=3, providers=(Provider(CPU_PROVIDER, options),))
    VLM.load(artifact_dir, settings=settings)
    assert opened == [(3, [(CPU_PROVIDER, options)])] * 3
    VLM.load(artifact_dir)
    assert opened[3:] == [(0, [(CPU_PROVIDER, {})])] * 3


def test_an_artifact_cannot_change_them(artifact_dir, monkeypatch):
    """ONNX Runtime would read session options from a graph's metadata, were it asked to."""
    path = artifact_dir / "onnx" / "embed_tokens.onnx"
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key = "ort_config"
    entry.value = '{"session_options": {"intra_op_num_threads": 7, "enable_profiling": true}}'
    onnx.save(model, path)
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    options = open_embed(artifact_dir, EngineSettings(threads=2)).get_session_options()
    assert (options.intra_op_num_threads, options.enable_profiling) == (2, False)
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with pytest.raises(PocketVLMError, match="ORT config"):
        open_embed(artifact_dir, EngineSettings(threads=2))


def test_a_graph_that_a_provider_cannot_open_is_refused_in_one_line(artifact_dir, capsys):
    path = artifact_dir / "onnx" / "embed_tokens.onnx"
    model = onnx.load(path)
    model.graph.node[0].op_type = "GatherBlockQuantized"  # not with these inputs
    model.graph.node[0].domain = "com.microsoft"
    path.write_bytes(model.SerializeToString())
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(PocketVLMError, match="cannot be opened by ONNX Runtime") as refusal:
        open_decoder(Artifact.open(artifact_dir))
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_physical_cores_are_some_of_the_processors():
    assert 1 <= physical_cores() <= os.cpu_count()


def test_vision_graphs_have_providers_of_their_own():
    other = Provider("AzureExecutionProvider")
    settings = EngineSettings(threads=1, vision_providers=[other])
    assert settings.providers == (Provider(CPU_PROVIDER),)
    assert settings.for_vision == EngineSettings(threads=1, providers=(other,))
    assert settings.every_provider == (Provider(CPU_PROVIDER), other)
    assert EngineSettings().for_vision == EngineSettings()
    assert EngineSettings(vision_providers=(other,)) != EngineSettings()
    for wrong in ((), (Provider("NoSuchExecutionProvider"),)):
        with pytest.raises(RequestError):
            EngineSettings(vision_providers=wrong)
