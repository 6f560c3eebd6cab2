"""Folders whose names are not UTF-8, which engines' bindings do not take, answer as others."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pocketvlm import VLM, Sampling, upstream
from support.gguf_files import needs_llama_cpp
from support.tiny_artifact import give_gguf, write_artifact

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def latin(tmp_path):
    """A folder whose name is Latin-1."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this system has no such names ({error})")
    return folder


def answer(folder):
    vlm = VLM.load(folder, feature_cache=folder / "cache")
    return vlm.generate("what is it?", [PICTURE], sampling=Sampling(max_new_tokens=4))


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="a folder has no other name here")
@pytest.mark.parametrize("engine", ["onnx", pytest.param("llama.cpp", marks=needs_llama_cpp)])
def test_they_answer_as_others(latin, engine, tmp_path):
    write_artifact(tmp_path / "plain")
    if engine == "llama.cpp":
        give_gguf(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", latin / "a")
    assert answer(latin / "a").token_ids == answer(tmp_path / "plain").token_ids


def test_where_a_folder_has_no_other_name_it_is_refused(latin, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _: False)
    before = sum(1 for _ in OPEN_FILES.glob("*"))
    with (
        pytest.raises(OSError, match="not UTF-8"),
        upstream.ort_path(latin / "graph.onnx"),
    ):
        pass
    assert sum(1 for _ in OPEN_FILES.glob("*")) == before
