"""Peers: which there are, the tower as llama.cpp wants it, programs that answer, suspended between
their turns, and what fails."""

import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import click
import gguf
import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.numpy import load_file

from compare_peers import environments
from compare_peers.__main__ import made_from
from compare_peers.environments import make_environment
from compare_peers.mmproj import write_mmproj
from compare_peers.peers import ENVIRONMENTS, OF_OPENVINO, REFUSED, peers, refusals
from compare_peers.programs import common
from compare_peers.worker import Worker
from install_llama_cpp import CONVERTER
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.families import FAMILIES
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
    question = {"prompt": PROMPT, "question": "What is it?", "image_token": "<image>"}
    return {"threads": 1, "new_tokens": 3, **question, **more}


def ask_twice(program, settings, picture):
    with Worker("peer", Path(sys.executable), program, settings) as worker:
        return worker.version, [worker.ask(picture) for _ in range(2)]


def stops(process, seconds=10):
    """Whether it is suspended; the system takes a moment."""
    end = time.monotonic() + seconds
    while process.status() != psutil.STATUS_STOPPED and time.monotonic() < end:
        time.sleep(0.01)
    return process.status() == psutil.STATUS_STOPPED


def manifest_with(vision, graphs, gguf=()):
    """What `peers` reads of an artifact that has these precisions."""
    return SimpleNamespace(
        vision=SimpleNamespace(graphs={k: dict.fromkeys(vision) for k in (64, 300)}),
        decoder=SimpleNamespace(by_engine={"onnx": graphs, "llama.cpp": gguf}, graphs=graphs),
    )


def test_theirs_are_pruned_where_they_can_be_to_about_as_many_tokens():
    manifest = manifest_with(["int8"], ["int8", "int4"])
    pruned = [p for p in peers("qwen3_vl", manifest, 300, [300, 128, 64]) if p.asks]
    # Whole percents: 129 and 63 of 300 tokens are left.
    assert [peer.asks for peer in pruned] == [{"pruning_ratio": 57}, {"pruning_ratio": 79}]
    assert not [peer for peer in peers("llava", manifest, 300, [64]) if peer.asks]


def test_ours_are_what_the_artifact_has_and_the_smallest_comes_last():
    names = [p.name for p in peers("llava", manifest_with(["int8"], ["int8", "int4"]), 300, [64])]
    assert [name for name in names if name.startswith("PocketVLM")] == [
        f"PocketVLM, {budget} tokens, int8 tower, onnx {precision}"
        for precision in ("int4", "int8+int4")
        for budget in (300, 64)
    ]


def test_calibrated_towers_are_computed_by_openvinos_provider():
    manifest = manifest_with(["int8", "int8_static"], ["int8", "int4"])
    others = [p for p in peers("llava", manifest, 300, [64]) if p.environment == OF_OPENVINO]
    assert [peer.name.partition(", onnx ")[2] for peer in others] == ["int4", "int8+int4"]
    assert all("64 tokens, int8_static tower by OpenVINO" in peer.name for peer in others)


@pytest.mark.parametrize(
    ("family", "answering"),
    [
        ("llava", {"transformers", "openvino", "llama.cpp", "llama.cpp-avx2"}),
        ("qwen3_vl", {"transformers", "openvino", "llama.cpp", "llama.cpp-avx2"}),
        ("gemma3", {"transformers", "openvino", "llama.cpp", "llama.cpp-avx2"}),
        ("smolvlm", {"transformers", "llama.cpp", "llama.cpp-avx2"}),
        ("lfm2_vl", {"transformers", "llama.cpp", "llama.cpp-avx2"}),
        ("internvl", {"transformers"}),
    ],
)
def test_peers_are_asked_about_the_families_that_they_have(family, answering):
    asked = peers(family, manifest_with(["int8"], ["int8", "int4"]), 300, [64])
    assert {peer.environment for peer in asked} == answering | {"pocketvlm"}
    assert {*ENVIRONMENTS} - answering - {"pocketvlm", OF_OPENVINO} == {*refusals(family)}
    assert all(refusals(family).values())


def test_families_that_are_refused_are_ours():
    assert {family for reasons in REFUSED.values() for family in reasons} <= {*FAMILIES}


def cpu(tmp_path, monkeypatch, flags):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name : avx512f of a name\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(environments, "CPUINFO", info)
    return environments.avx512_build()


def test_llama_cpp_is_compiled_with_what_the_cpu_has(tmp_path, monkeypatch):
    assert cpu(tmp_path, monkeypatch, "avx2 fma avx_vnni") is None
    assert cpu(tmp_path, monkeypatch, "avx2 avx512f avx512_vnni") == (
        "-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON"
    )
    everything = cpu(tmp_path, monkeypatch, "avx512f avx512vbmi avx512_vnni avx512_bf16 amx_int8")
    assert everything.count("=ON") == 4
    assert "AMX" not in everything
    monkeypatch.setattr(environments, "CPUINFO", tmp_path / "none")
    assert environments.avx512_build() is None


def test_each_build_of_llama_cpp_is_compiled_once(tmp_path, monkeypatch):
    compiled = []

    def compile_into(command, **options):
        folder = Path(command[command.index("--wheel-dir") + 1])
        folder.mkdir(parents=True)
        (folder / "llama_cpp_python-0-py3-none-any.whl").touch()
        compiled.append(options["env"]["CMAKE_ARGS"])

    monkeypatch.setattr(environments.subprocess, "run", compile_into)
    builds = ["-DA=ON", "-DA=OFF", "-DA=ON"]
    folders = [environments.compiled_llama_cpp(tmp_path, build) for build in builds]
    assert compiled == builds[:2]
    assert folders[0] == folders[2] != folders[1]


def test_what_is_made_of_a_checkpoint_is_not_taken_for_anothers(checkpoint, make_tiny):
    assert made_from(checkpoint).startswith(f"{checkpoint.name}-")
    assert made_from(checkpoint) == made_from(checkpoint)
    assert made_from(checkpoint).split("-")[-1] != made_from(make_tiny("tiny-qwen2")).split("-")[-1]


def test_a_program_is_told_what_comes_with_a_picture(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"picture": "a.png", "pruning_ratio": 57}\n'))
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    asked = []

    def answer(picture, watch):
        asked.append((picture, watch.asked["pruning_ratio"]))
        watch.token()
        return 9

    common.serve(answer, "peer 1")
    assert asked == [(Path("a.png"), 57)]
    ready, report = map(json.loads, out.getvalue().splitlines())
    assert ready == {"ready": "peer 1"}
    assert (report["tokens"], report["prompt_tokens"]) == (1, 9)


@pytest.mark.skipif(not CONVERTER.is_dir(), reason="llama.cpp's converter is not unpacked")
def test_other_towers_go_through_llama_cpps_converter(make_tiny, tmp_path):
    write_mmproj(make_tiny("tiny-qwen3-vl"), tmp_path / "mmproj.gguf", "f16")
    fields = gguf.GGUFReader(tmp_path / "mmproj.gguf").fields
    assert fields["clip.projector_type"].contents() == "qwen3vl_merger"


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
