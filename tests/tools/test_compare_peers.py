"""Peers: the tower as llama.cpp wants it, programs that answer, suspended between their turns, and
what fails."""

import sys
import time
from pathlib import Path

import click
import gguf
import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.numpy import load_file

from compare_peers.environments import make_environment
from compare_peers.mmproj import write_mmproj
from compare_peers.worker import Worker
from pocketvlm_export import ExportOptions, export
from support.gguf_files import needs_llama_cpp

PROMPT = "USER: <image>\nWhat is it? ASSISTANT:"


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-llama")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (42, 42, 3), dtype=np.uint8)).save(
        path
    )
    return path


def settings_of(**more):
    return {"threads": 1, "new_tokens": 3, "prompt": PROMPT, "question": "What is it?", **more}


def ask_twice(program, settings, picture):
    with Worker("peer", Path(sys.executable), program, settings) as worker:
        return worker.version, [worker.ask(picture) for _ in range(2)]


def stops(process, seconds=10):
    """Whether it is suspended; the system takes a moment."""
    end = time.monotonic() + seconds
    while process.status() != psutil.STATUS_STOPPED and time.monotonic() < end:
        time.sleep(0.01)
    return process.status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_tower_is_the_checkpoints(checkpoint, tmp_path, kind):
    write_mmproj(checkpoint, tmp_path / "mmproj.gguf", kind)
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "mmproj.gguf").tensors}
    stored = load_file(checkpoint / "model.safetensors")
    vision_weights = {
        name: values
        for name, values in stored.items()
        if name.startswith(("vision_tower", "multi_modal"))
    }
    assert len(written) == len(vision_weights)
    query = vision_weights["vision_tower.vision_model.encoder.layers.1.self_attn.q_proj.weight"]
    dequantized = gguf.dequantize(
        written["v.blk.1.attn_q.weight"].data, written["v.blk.1.attn_q.weight"].tensor_type
    )
    np.testing.assert_allclose(dequantized, query, atol={"f16": 1e-3, "q8_0": 1e-2}[kind])
    np.testing.assert_array_equal(
        written["mm.2.bias"].data, vision_weights["multi_modal_projector.linear_2.bias"]
    )


@needs_llama_cpp
def test_mtmd_answers_about_all_patches(checkpoint, picture, tmp_path):
    write_mmproj(checkpoint, tmp_path / "mmproj.gguf", "f16")
    export(
        str(checkpoint),
        tmp_path / "artifact",
        ExportOptions(decoder="llama.cpp", gguf_types=("f16",)),
    )
    files = {
        "model": str(tmp_path / "artifact" / "gguf" / "decoder-f16.gguf"),
        "mmproj": str(tmp_path / "mmproj.gguf"),
    }
    version, reports = ask_twice("with_mtmd", settings_of(**files), picture)
    assert "llama-cpp-python" in version
    for report in reports:
        assert report["tokens"] == 3
        assert report["prompt_tokens"] > 36
        assert report["ttft"] > 0


def test_transformers_answers(checkpoint, picture):
    version, reports = ask_twice(
        "with_transformers", settings_of(checkpoint=str(checkpoint), dtype="float32"), picture
    )
    assert "torch" in version
    assert [report["tokens"] for report in reports] == [3, 3]
    assert reports[0]["prompt_tokens"] > 36


def test_our_own_program_says_what_it_kept(tiny_export, picture):
    settings = settings_of(folder=str(tiny_export), load={"budget": 4})
    _, reports = ask_twice("with_pocketvlm", settings, picture)
    assert reports[0]["prompt_tokens"] < 36
    assert reports[0]["peak_mb"] > 0


def test_a_worker_sleeps_until_it_is_asked(tiny_export, picture):
    with Worker(
        "peer",
        Path(sys.executable),
        "with_pocketvlm",
        settings_of(folder=str(tiny_export), load={}),
    ) as worker:
        process = worker.process
        assert stops(process)
        worker.ask(picture)
        assert stops(process)
    assert not process.is_running()


def test_a_program_that_fails_is_named_with_its_reason(tmp_path):
    with pytest.raises(
        click.ClickException, match=r"^peer ended: .*(no such folder|pocketvlm\.json)"
    ):
        Worker(
            "peer",
            Path(sys.executable),
            "with_pocketvlm",
            settings_of(folder=str(tmp_path / "none"), load={}),
        )


def test_an_environment_that_cannot_be_made_is_not_kept(tmp_path):
    with pytest.raises(click.ClickException, match="pip cannot make"):
        make_environment(tmp_path / "peer", ["no-such-package-anywhere"], ["--no-index"])
    assert not (tmp_path / "peer" / "requirements.txt").exists()
