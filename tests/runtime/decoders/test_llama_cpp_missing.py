"""Where llama-cpp-python is missing or of another version, one line says what to install; this
needs neither."""

from importlib.metadata import PackageNotFoundError

import pytest

from pocketvlm import VLM, PocketVLMError
from pocketvlm.decoders import llama_library
from support.tiny_artifact import read_manifest, write_manifest


def refused(reason):
    with pytest.raises(PocketVLMError, match=reason) as refusal:
        llama_library.library.__wrapped__()
    assert "pip install 'pocketvlm[llama]'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(llama_library, "version", missing)
    refused("needs llama-cpp-python")


@pytest.mark.parametrize("installed", ["0.2.90", "0.3.16", "0.3.19", "0.4.0", "1.0"])
def test_versions_outside_the_range_are_refused(monkeypatch, installed):
    monkeypatch.setattr(llama_library, "version", lambda name: installed)
    refused(f"llama-cpp-python {installed} is installed, .*0.3.20")


@pytest.mark.parametrize(
    "error", [ImportError("no module"), OSError("libllama.so is missing"), RuntimeError("broken")]
)
def test_a_package_that_does_not_load_is_refused(monkeypatch, error):
    def broken(name):
        raise error

    monkeypatch.setattr(llama_library, "version", lambda name: "0.3.36")
    monkeypatch.setattr(llama_library.importlib, "import_module", broken)
    refused(f"does not load .*{error}")


def test_a_setting_that_the_version_lacks_is_refused():
    class Parameters:
        _fields_ = (("n_ctx", int),)

    assert llama_library.with_settings(Parameters(), n_ctx=3).n_ctx == 3
    with pytest.raises(PocketVLMError, match="no setting n_batch"):
        llama_library.with_settings(Parameters(), n_batch=3)


def test_a_damaged_gguf_file_is_refused_before_llama_cpp_is_looked_for(artifact_dir, monkeypatch):
    (artifact_dir / "gguf").mkdir()
    (artifact_dir / "gguf" / "decoder-f16.gguf").write_bytes(b"GGUF, they said")
    data = read_manifest(artifact_dir)
    data["decoder"] |= {"engines": ["onnx", "llama.cpp"], "gguf": {"f16": "gguf/decoder-f16.gguf"}}
    data["decoder"]["default_precisions"] |= {"llama.cpp": "f16"}
    write_manifest(artifact_dir, data)
    assert VLM.load(artifact_dir).decoder == "onnx fp32"
    with pytest.raises(PocketVLMError, match=r"decoder-f16\.gguf is not a sound GGUF file"):
        VLM.load(artifact_dir, decoder="llama.cpp")
    with pytest.raises(PocketVLMError, match="no precision 'q8_0': expected one of f16"):
        VLM.load(artifact_dir, decoder="llama.cpp", decoder_precision="q8_0")
