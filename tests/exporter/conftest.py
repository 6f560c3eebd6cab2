"""Fixtures of the exporter's tests."""

import shutil

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.memory import collecting_own_garbage
from support.fixtures import checksum_cache
from support.gguf_files import HAS_LLAMA_CPP
from support.shared import write_once

__all__ = ["checksum_cache", "copied_checkpoint"]


@pytest.fixture
def copied_checkpoint(tiny_checkpoint, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def own_garbage():
    """Tests that call the steps of an export spend their time in it, and not in collecting what
    others have left, as `export` does not either."""
    with collecting_own_garbage():
        yield


@pytest.fixture(scope="session")
def qwen25(make_tiny):
    """tiny-qwen2.5-vl; read only."""
    return make_tiny("tiny-qwen2.5-vl")


@pytest.fixture(scope="session")
def qwen2(make_tiny):
    """tiny-qwen2-vl; read only."""
    return make_tiny("tiny-qwen2-vl")


@pytest.fixture(scope="session")
def qwen25_pruned(qwen25, tmp_path_factory):
    """By received attention, six or three tokens of at most 48, for both engines and in every kind
    of precision; read only."""
    options = ExportOptions(
        "received-attention",
        budgets=(6, 3),
        caps=Caps(max_pixels=48 * 28**2),
        decoder="both",
        vision_precisions=("fp32", "int8"),
        decoder_precisions=("fp32", "int8", "int4"),
        gguf_types=("f32", "q8_0"),
    )
    return write_once(
        tmp_path_factory, "qwen25-pruned", lambda folder: export(str(qwen25), folder, options)
    )


@pytest.fixture(scope="session")
def qwen3(make_tiny):
    """tiny-qwen3-vl; read only."""
    return make_tiny("tiny-qwen3-vl")


@pytest.fixture(scope="session")
def qwen3_pruned(qwen3, tmp_path_factory):
    """By DivPrune, six tokens of at most 48, for both engines and in several precisions; read
    only."""
    options = ExportOptions(
        "divprune",
        budgets=(6,),
        caps=Caps(max_pixels=48 * 32**2),
        decoder="both",
        vision_precisions=("fp32", "int8"),
        decoder_precisions=("fp32", "int8", "int4"),
        gguf_types=("f32", "q8_0"),
    )
    return write_once(
        tmp_path_factory, "qwen3-pruned", lambda folder: export(str(qwen3), folder, options)
    )


@pytest.fixture(scope="session")
def video_llava(make_tiny):
    """tiny-video-llava; read only."""
    return make_tiny("tiny-video-llava")


@pytest.fixture(scope="session")
def video_pruned(video_llava, tmp_path_factory):
    """Nine tokens of each frame and of each picture by FasterVLM, for both engines; read only."""
    engines = {"decoder": "both", "gguf_types": ("f32",)} if HAS_LLAMA_CPP else {}
    options = ExportOptions("fastervlm", budgets=(9,), media=("video", "image"), **engines)
    return write_once(
        tmp_path_factory, "video-pruned", lambda folder: export(str(video_llava), folder, options)
    )


@pytest.fixture(scope="session")
def video_whole(video_llava, tmp_path_factory):
    """Clips and pictures without pruning; read only."""
    engines = {"decoder": "both", "gguf_types": ("f32",)} if HAS_LLAMA_CPP else {}
    options = ExportOptions(pruner="none", media=("video", "image"), **engines)
    return write_once(
        tmp_path_factory, "video-whole", lambda folder: export(str(video_llava), folder, options)
    )


@pytest.fixture(scope="session")
def qwen2_by_default(qwen2, tmp_path_factory):
    """What `pocketvlm export` writes without a flag; read only."""

    def write(folder):
        done = CliRunner().invoke(main, ["export", str(qwen2), "-o", str(folder)])
        assert done.exit_code == 0, done.output

    return write_once(tmp_path_factory, "qwen2-default", write)
