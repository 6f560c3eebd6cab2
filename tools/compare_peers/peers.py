"""Knows the peers: what each is made of, what it needs from a checkpoint, and the program that asks
it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compare_peers.mmproj import write_mmproj

# The environment of a peer -> what it is made of, beside the Python that runs this tool.
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("-c", "constraints.txt", "torch", "transformers", "pillow"),
    # torchvision is another build than torch where torch is the one for CPUs, and then breaks
    # transformers.
    "openvino": (
        "torch==2.13.0",
        "optimum-intel==2.2.0",
        "openvino-genai==2026.4.1.0",
        "pillow",
        "!torchvision",
    ),
    "llama.cpp": ("-c", "constraints.txt", "llama-cpp-python", "pillow"),
    "pocketvlm": ("-c", "constraints.txt", ".[llama]"),
}


@dataclass(frozen=True)
class Sources:
    """What the peers are made from: a checkpoint, our artifact of it, and a folder for what they
    write."""

    checkpoint: Path
    artifact: Path
    folder: Path
    python: Path  # of the peer's environment


@dataclass(frozen=True)
class Peer:
    """One row of the table; ``prepare`` gives the settings of its program, and writes once what
    they name."""

    name: str
    environment: str
    program: str
    prepare: Callable[[Sources], dict[str, Any]]


def _transformers(dtype: str, sources: Sources) -> dict[str, Any]:
    return {"checkpoint": str(sources.checkpoint), "dtype": dtype}


def _openvino(sources: Sources) -> dict[str, Any]:
    """The 4-bit decoder brings an 8-bit tower with it: optimum-intel's default for towers."""
    folder = sources.folder / "openvino-int4"
    if not (folder / "openvino_language_model.xml").is_file():
        tool = sources.python.with_name("optimum-cli")
        task = ["--task", "image-text-to-text", "--weight-format", "int4"]
        command = [
            str(tool),
            "export",
            "openvino",
            "--model",
            str(sources.checkpoint),
            *task,
            str(folder),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return {"folder": str(folder)}


def _mtmd(kind: str, sources: Sources) -> dict[str, Any]:
    mmproj = sources.folder / f"mmproj-{kind}.gguf"
    if not mmproj.is_file():
        partial_file = mmproj.with_suffix(".partial")
        write_mmproj(sources.checkpoint, partial_file, kind)
        partial_file.rename(mmproj)
    return {"model": str(sources.artifact / "gguf" / "decoder-q4_0.gguf"), "mmproj": str(mmproj)}


def _pocketvlm(sources: Sources, **load: Any) -> dict[str, Any]:
    return {"folder": str(sources.artifact), "load": load}


def ours(budget: int, vision: str, decoder: str, precision: str) -> Peer:
    """PocketVLM at a budget, with precisions that the artifact has."""
    load: dict[str, Any] = {
        "budget": budget,
        "vision_precision": vision,
        "decoder": decoder,
        "decoder_precision": precision,
    }
    name = f"PocketVLM, {budget} tokens, {vision} tower, {decoder} {precision}"
    return Peer(name, "pocketvlm", "with_pocketvlm", partial(_pocketvlm, **load))


def peers(tokens: int, budget: int) -> list[Peer]:
    """All peers, those that cannot prune first; ``tokens`` is how many the tower gives and
    ``budget`` how many we keep."""
    return [
        Peer(
            "transformers, fp32",
            "transformers",
            "with_transformers",
            partial(_transformers, "float32"),
        ),
        Peer(
            "transformers, bf16",
            "transformers",
            "with_transformers",
            partial(_transformers, "bfloat16"),
        ),
        Peer("OpenVINO GenAI, int8 tower, int4", "openvino", "with_openvino", _openvino),
        Peer("llama.cpp mtmd, f16 tower, Q4_0", "llama.cpp", "with_mtmd", partial(_mtmd, "f16")),
        Peer("llama.cpp mtmd, q8_0 tower, Q4_0", "llama.cpp", "with_mtmd", partial(_mtmd, "q8_0")),
        ours(tokens, "fp32", "onnx", "fp32"),
        ours(budget, "fp32", "onnx", "fp32"),
        ours(budget, "fp32", "llama.cpp", "q4_0"),
        ours(tokens, "int8", "onnx", "int4_b128"),
        ours(budget, "int8", "llama.cpp", "q4_0"),
        ours(budget, "int8", "onnx", "int4_b128"),
        ours(budget, "int8", "onnx", "int8+int4_b128"),
    ]
