"""Knows the peers: what each is made of, what it needs from a checkpoint, and the program that asks
it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from compare_peers.mmproj import write_mmproj
from pocketvlm.artifact.manifest import Manifest

# llama.cpp as compiled for a CPU with AVX-512 and for any x86-64 CPU with AVX2, and its release.
AVX512, AVX2 = "llama.cpp", "llama.cpp-avx2"
OF_OPENVINO = "pocketvlm-openvino"
_LLAMA_CPP = ("-c", "constraints.txt", "llama-cpp-python", "pillow")
# The environment of a peer -> what it is made of, beside the Python that runs this tool: the newest
# releases of November 2026.
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("torch", "transformers==5.24.0", "pillow"),
    # torchvision is another build than torch where torch is the one for CPUs, and then breaks
    # transformers. optimum-intel exports no Qwen-VL with transformers 5.
    "openvino": (
        "torch==2.13.0",
        "optimum-intel==2.2.0",
        "openvino-genai==2026.4.1.0",
        "transformers==4.57.6",
        "pillow",
        "!torchvision",
    ),
    AVX512: _LLAMA_CPP,
    AVX2: _LLAMA_CPP,
    "pocketvlm": ("-c", "constraints.txt", ".[llama]"),
    # Its vision graphs by OpenVINO's execution provider, which comes with a build of ONNX Runtime.
    OF_OPENVINO: ("-c", "constraints.txt", ".", "!onnxruntime", "+onnxruntime-openvino==1.24.1"),
}
# Models whose visual tokens OpenVINO GenAI prunes, by the `model_type` of their configuration.
PRUNED_BY_OPENVINO = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
_CONVERTER = "llama.cpp's converter (of llama-cpp-python 0.3.36) writes no mmproj file of it"
_GENAI = "openvino-genai 2026.4.1 has no pipeline for it"
_WITHOUT_MMPROJ = dict.fromkeys(
    ("internvl", "llava_next", "llava_onevision", "paligemma", "video_llava"), _CONVERTER
)
# Families that a peer does not answer about, by its environment and the `model_type` of their
# configuration, and why. transformers has all of them.
REFUSED: Mapping[str, Mapping[str, str]] = {
    "openvino": {
        "internvl": f"{_GENAI}, only for internvl_chat, which runs a repository's own code",
        **dict.fromkeys(
            ("idefics3", "lfm2_vl", "llava_onevision", "paligemma", "smolvlm", "video_llava"),
            _GENAI,
        ),
    },
    AVX512: _WITHOUT_MMPROJ,
    AVX2: _WITHOUT_MMPROJ,
}
# Runtimes that are not peers, and why.
NO_PEERS: Mapping[str, str] = {
    "onnxruntime-genai 0.18.0": "its model builder writes the decoders of Gemma 3, LFM2-VL, "
    "Qwen2.5-VL and Qwen3-VL, but no vision graph of any model",
}
# Tower, engine and decoder of ours; those that an artifact lacks are passed over.
_OURS = (
    ("fp32", "onnx", "fp32"),
    ("fp32", "llama.cpp", "q4_0"),
    ("int8", "onnx", "int4_b128"),
    ("int8", "onnx", "int4"),
    ("int8", "llama.cpp", "q4_0"),
    ("int8", "onnx", "int8+int4_b128"),
    ("int8", "onnx", "int8+int4"),
)
# Towers with calibrated ranges, which OpenVINO's provider computes in 8 bits, and their decoders.
_STATIC = "int8_static"
_BEHIND_STATIC = ("int4_b128", "int4", "int8+int4_b128", "int8+int4")
_LARGEST_GROUP = 128  # of weights that share a scale, as optimum-intel has it


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
    they name.

    ``asks`` goes with every picture. Peers of one environment whose settings are equal share a
    running program.
    """

    name: str
    environment: str
    program: str
    prepare: Callable[[Sources], dict[str, Any]]
    asks: Mapping[str, Any] = field(default_factory=dict)


def _transformers(dtype: str, sources: Sources) -> dict[str, Any]:
    return {"checkpoint": str(sources.checkpoint), "dtype": dtype}


def _openvino(sources: Sources) -> dict[str, Any]:
    """The 4-bit decoder brings an 8-bit tower with it: optimum-intel's default for towers."""
    folder = sources.folder / "openvino-int4"
    if not (folder / "openvino_language_model.xml").is_file():
        tool = sources.python.with_name("optimum-cli")
        task = ["--task", "image-text-to-text", "--weight-format", "int4"]
        group = ["--group-size", str(_group_size(sources.checkpoint))]
        model = ["--model", str(sources.checkpoint)]
        command = [str(tool), "export", "openvino", *model, *task, *group, str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    if not (folder / "openvino_tokenizer.xml").is_file():
        program = Path(__file__).parent / "programs" / "openvino_tokenizer.py"
        command = [str(sources.python), str(program), str(sources.checkpoint), str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return {"folder": str(folder)}


def _group_size(checkpoint: Path) -> int:
    """The largest power of two that divides the decoder's widths: small models have narrow ones."""
    config = json.loads((checkpoint / "config.json").read_text())
    text = {**config, **config.get("text_config", {})}
    return math.gcd(text["hidden_size"], text["intermediate_size"], _LARGEST_GROUP)


def _mtmd(kind: str, sources: Sources) -> dict[str, Any]:
    mmproj = sources.folder / f"mmproj-{kind}.gguf"
    if not mmproj.is_file():
        partial_file = mmproj.with_suffix(".partial")
        write_mmproj(sources.checkpoint, partial_file, kind)
        partial_file.rename(mmproj)
    return {"model": str(sources.artifact / "gguf" / "decoder-q4_0.gguf"), "mmproj": str(mmproj)}


def _pocketvlm(sources: Sources, **load: Any) -> dict[str, Any]:
    return {"folder": str(sources.artifact), "load": load}


def _ours(
    budget: int, vision: str, decoder: str, precision: str, environment: str = "pocketvlm"
) -> Peer:
    """PocketVLM at a budget, with precisions that the artifact has; in ``OF_OPENVINO`` its provider
    computes the tower."""
    load: dict[str, Any] = {
        "budget": budget,
        "vision_precision": vision,
        "decoder": decoder,
        "decoder_precision": precision,
    }
    tower = f"{vision} tower"
    if environment == OF_OPENVINO:
        load["vision_provider"] = "openvino:device_type=CPU"
        tower += " by OpenVINO's provider"
    name = f"PocketVLM, {budget} tokens, {tower}, {decoder} {precision}"
    return Peer(name, environment, "with_pocketvlm", partial(_pocketvlm, **load))


def _theirs_pruned(tokens: int, budget: int) -> Peer:
    """OpenVINO GenAI, which drops a whole number of percent of a picture's tokens."""
    percent = round(100 * (1 - budget / tokens))
    name = f"OpenVINO GenAI, int8 tower, int4, pruning_ratio {percent}"
    return Peer(name, "openvino", "with_openvino", _openvino, {"pruning_ratio": percent})


def refusals(family: str) -> dict[str, str]:
    """Environments whose peers do not answer about a family, and why."""
    return {name: reasons[family] for name, reasons in REFUSED.items() if family in reasons}


def _of_llama_cpp(environment: str, kind: str) -> Peer:
    """llama.cpp's own way, with a tower whose matrices are of this kind."""
    build = "" if environment == AVX512 else " without AVX-512"
    name = f"llama.cpp mtmd{build}, {kind} tower, Q4_0"
    return Peer(name, environment, "with_mtmd", partial(_mtmd, kind))


def peers(family: str, manifest: Manifest, tokens: int, budgets: Sequence[int]) -> list[Peer]:
    """All peers that answer about a family, those that cannot prune first, our smallest budget in
    our fastest precisions last.

    Args:
        family: the ``model_type`` of the checkpoint.
        manifest: of our artifact.
        tokens: what the tower gives of a picture, or of a tile.
        budgets: how many of them are kept.
    """
    smaller = [budget for budget in budgets if budget < tokens]
    theirs = [
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
        *(_of_llama_cpp(build, kind) for build in (AVX512, AVX2) for kind in ("f16", "q8_0")),
    ]
    if family in PRUNED_BY_OPENVINO:
        theirs += [_theirs_pruned(tokens, budget) for budget in smaller]
    vision = set.intersection(*map(set, manifest.vision.graphs.values()))
    ours = [
        _ours(budget, tower, engine, precision)
        for tower, engine, precision in _OURS
        if tower in vision and set(precision.split("+")) <= set(manifest.decoder.by_engine[engine])
        for budget in (tokens, *smaller)
    ]
    ours += [
        _ours(budget, _STATIC, "onnx", precision, OF_OPENVINO)
        for precision in _BEHIND_STATIC
        if _STATIC in vision and set(precision.split("+")) <= set(manifest.decoder.graphs)
        for budget in smaller
    ]
    refused = refusals(family)
    return [*(peer for peer in theirs if peer.environment not in refused), *ours]
