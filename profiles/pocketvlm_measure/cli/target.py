"""Knows what a deployment target asks of commands that measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketvlm_targets import Target


def case_wishes(target: Target, _given: Mapping[str, Any]) -> dict[str, Any]:
    """What a target wants of a command that goes through cases: its lists, of which every engine
    takes what it has."""
    wanted = {
        "decoder": ("onnx", "llama.cpp") if target.decoder == "both" else target.decoder,
        "budget": target.budget,
        "vision_precision": target.vision_precision,
        "decoder_precision": (*target.decoder_precision, *target.gguf_type),
        "threads": target.threads,
    }
    return {name: value for name, value in wanted.items() if value}


def profiling_wishes(target: Target, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a target wants of a command that measures: its lists and its limits."""
    limits = {"context": target.context, "memory_limit": target.memory_limit}
    return case_wishes(target, given) | {name: value for name, value in limits.items() if value}
