"""Knows which options of commands that measure a deployment target gives."""

from __future__ import annotations

from typing import Any

import click

from pocketvlm.cli.target import answering_caps
from pocketvlm.cli.terminal import echo
from pocketvlm_targets import DECODERS, Target


def case_defaults(target: Target, _ctx: click.Context) -> dict[str, Any]:
    """A target's values for a command that goes through cases: its lists, of which every engine
    takes what it has.

    Of several precisions of ONNX Runtime's decoders the artifact knows which answer, and whether
    two do together, see `pocketvlm.artifact.pair.choose_precision`.
    """
    several = len(target.decoder_precision) > 1 and not target.gguf_type
    precisions = () if several else (*target.decoder_precision, *target.gguf_type)
    values = {
        "decoder": target.decoder and DECODERS[target.decoder],
        "budget": target.budget,
        "vision_precision": target.vision_precision,
        "decoder_precision": precisions,
        "threads": target.threads,
        "providers": list(target.provider),
        **answering_caps(target),
    }
    return {name: value for name, value in values.items() if value}


def evaluating_defaults(target: Target, ctx: click.Context) -> dict[str, Any]:
    """A target's values for `pocketvlm evaluate`: its lists, and its limit of memory."""
    return case_defaults(target, ctx) | {"memory_limit": target.memory_limit}


def profiling_defaults(target: Target, ctx: click.Context) -> dict[str, Any]:
    """A target's values for `pocketvlm profile`: its lists and its limits."""
    limits = {"context": target.context, "memory_limit": target.memory_limit}
    return case_defaults(target, ctx) | limits


def tuning_defaults(target: Target, ctx: click.Context) -> dict[str, Any]:
    """A target's values for `pocketvlm tune`: its lists are what is tried, its limit of memory is
    kept, and of a checkpoint only what its engine knows is exported.

    One size for all pictures is tried where it is asked for alone, which is said."""
    if target.image_size is not None:
        echo("note: image_size of the target is tried where --image-sizes names it", err=True)
    values: dict[str, Any] = {
        **case_defaults(target, ctx),
        "method": target.pruner and (target.pruner,),
        # A list: the option may be repeated, and this is one plan.
        "tower_stage": [" ".join(target.tower_stage)] if target.tower_stage else None,
        "portable": target.portable,
        "max_memory": target.memory_limit,
    }
    return {name: value for name, value in values.items() if value}
