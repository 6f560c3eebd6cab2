"""Knows the rules between the fields of pocketvlm.json, which a JSON Schema cannot express."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pocketvlm.artifact.specs import (
    ATTENTIONS,
    CAUSAL,
    POSITION_AXES,
    VISION_OUTPUTS,
    DecoderSpec,
)
from pocketvlm.artifact.stages import in_order

if TYPE_CHECKING:
    from pocketvlm.artifact.manifest import Manifest
    from pocketvlm.artifact.specs import DecoderSpec

# What decoder graphs read beside caches and ``decoder.extras``, whatever their kind.
_DECODER_INPUTS = ("inputs_embeds", "attention_mask", "position_ids", "picture_ids")
_FLOAT = 4  # bytes


def contradictions(manifest: Manifest) -> list[str]:
    """Return what its fields say against each other, in words; nothing of a sound one."""
    pruning, decoder = manifest.pruning, manifest.decoder
    named = [name for graphs in manifest.vision.graphs.values() for name in graphs.values()]
    named += [*decoder.embed.values(), *decoder.graphs.values(), *decoder.gguf.values()]
    named += manifest.vision.selectors.values()
    constants = manifest.vision.constants.values()
    named += [constant.file for constant in constants]
    problems = {
        f"budgets {list(pruning.budgets)} exceed the {pruning.tokens_before} tokens of a picture": (
            max(pruning.budgets) > pruning.tokens_before
        ),
        f"default budget {pruning.default_budget} is not one of {list(pruning.budgets)}": (
            pruning.default_budget not in pruning.budgets
        ),
        "the vision graphs do not match the budgets": set(manifest.vision.graphs)
        != set(pruning.budgets),
        **(_of_selectors(manifest) if manifest.vision.selectors else {}),
        # Else smaller budgets would be cut from tokens that are means of others.
        "what is dropped is merged, and smaller budgets are promised to be part of larger ones": (
            pruning.merge_dropped and pruning.nested
        ),
        "a graph or GGUF file it names is missing from its files table": not set(named)
        <= set(manifest.files),
        f"a constant of its vision side has another shape than ({decoder.hidden},)": any(
            constant.shape != (decoder.hidden,) for constant in constants
        ),
        "the file of a constant has another size than its shape": any(
            manifest.files[constant.file].bytes != _FLOAT * math.prod(constant.shape)
            for constant in constants
            if constant.file in manifest.files
        ),
        "more layers of its tower attend within windows than there are, or windows have no size": (
            (tower := manifest.vision.tower) is not None
            and tower.windowed_layers > (tower.layers if tower.window else 0)
        ),
        "it names the size that the checkpoint was made for as another, and is of that size or of "
        "any": (
            manifest.vision.made_for is not None
            and manifest.vision.image_size in (None, manifest.vision.made_for)
        ),
        "the stages of its tower are not in order, or lie in no layer of it": not in_order(
            stages := manifest.vision.stages
        )
        or any(tower is not None and stage.layer >= tower.layers for stage in stages),
        "a budget is larger than what the last stage of its tower keeps": (
            bool(stages) and max(pruning.budgets) > stages[-1].keep
        ),
        "an extra output of its vision graphs has the name of another": bool(
            set(manifest.vision.extras) & set(VISION_OUTPUTS)
        )
        or (bool(manifest.vision.selectors) and "features" in manifest.vision.extras),
        f"the decoder reads {', '.join(decoder.extras)}, and the vision graphs give "
        f"{', '.join(manifest.vision.extras) or 'no further outputs'}": (
            not set(decoder.extras) <= set(manifest.vision.extras)
        ),
        "a further input of its decoder graphs has the name of another": bool(
            set(decoder.extras) & set(_DECODER_INPUTS)
        ),
        "the ONNX engine is promised without its graphs": (
            "onnx" in decoder.engines and not (decoder.embed and decoder.graphs)
        ),
        "a decoder's embedding table is missing": not all(
            decoder.tables.get(precision) in decoder.embed for precision in decoder.graphs
        ),
        "the llama.cpp engine is promised without a GGUF file": "llama.cpp" in decoder.engines
        and not decoder.gguf,
        f"positions {decoder.positions!r} are not one of {', '.join(POSITION_AXES)}, which this "
        "runtime has": decoder.positions not in POSITION_AXES,
        f"attention {decoder.attention!r} is not one of {', '.join(ATTENTIONS)}, which this "
        "runtime has": decoder.attention not in ATTENTIONS,
        "its decoder's layers of convolutions are not in order, or more than it has": (
            list(decoder.conv_layers) != sorted(set(decoder.conv_layers))
            or not all(0 <= layer < decoder.layers for layer in decoder.conv_layers)
        ),
        "its decoder's convolutions have no width": (
            bool(decoder.conv_layers) != (decoder.conv_width > 0)
        ),
        **_of_scores(decoder),
        f"its default engine {decoder.default_engine} is not one of {list(decoder.engines)}": (
            decoder.default_engine not in decoder.engines
        ),
        "an engine's default precision is not one that it has": not all(
            decoder.default_precisions.get(engine) in files
            for engine, files in decoder.by_engine.items()
            if engine in decoder.engines
        ),
        "the decoders that answer as a pair are not two that it has, one of them the default": bool(
            decoder.pair
        )
        and not _is_pair(decoder),
        "a budget has no vision graph of the default precision": not all(
            manifest.vision.default_precision in graphs
            for graphs in manifest.vision.graphs.values()
        ),
        "two media have the same token in their places": decoder.image_token_id
        in {other.image_token_id for other in manifest.media.values()},
        "a token id lies outside the vocabulary": (
            max([decoder.image_token_id, *decoder.eos_token_ids]) >= decoder.vocab
        ),
        **(_of_stages(decoder) if decoder.stages else {}),
        "a file of its self-test is missing from its files table": (
            manifest.self_test is not None
            and not {manifest.self_test.file, *manifest.self_test.pictures} <= set(manifest.files)
        ),
    }
    return [problem for problem, holds in problems.items() if holds]


def _is_pair(decoder: DecoderSpec) -> bool:
    halves = decoder.pair.split("+")
    present = len(set(halves)) == len(halves) == 2 and set(halves) <= set(decoder.graphs)
    return present and decoder.default_precisions.get("onnx") in halves


def _of_selectors(manifest: Manifest) -> dict[str, bool]:
    """What contradicts graphs that select by the prompt."""
    vision, pruning, tables = manifest.vision, manifest.pruning, manifest.decoder.embed
    selected = "tokens are selected by the prompt"
    return {
        "the graphs that select by the prompt do not match the budgets": (
            set(vision.selectors) != set(pruning.budgets)
        ),
        f"{selected}, and there is no embedding table to read it by": not tables,
        f"{selected}, read by an embedding table of precision {vision.selector_table!r}, and there "
        f"are {', '.join(tables)}": bool(tables) and vision.selector_table not in tables,
        f"{selected}, and stages of its tower drop some before": bool(vision.stages),
        f"{selected}, and what is dropped is merged": pruning.merge_dropped,
    }


def _of_stages(decoder: DecoderSpec) -> dict[str, bool]:
    """What contradicts a decoder that drops tokens between layers."""
    promised = "its decoder is promised to drop tokens between layers"
    return {
        "the stages of its decoder are not in order": not in_order(decoder.stages),
        f"a stage of its decoder begins at no layer of {decoder.layers}": (
            decoder.stages[-1].layer >= decoder.layers
        ),
        f"{promised}, and reads further features": bool(decoder.extras),
        f"{promised} with attention that is not causal": decoder.attention != CAUSAL,
        f"{promised} with {decoder.positions} positions, of which a token has several": (
            POSITION_AXES.get(decoder.positions, 1) > 1
        ),
        f"{promised}, and has convolutions, which read every token": bool(decoder.conv_layers),
        f"{promised}, and llama.cpp cannot": "llama.cpp" in decoder.engines,
    }


def _of_scores(decoder: DecoderSpec) -> dict[str, bool]:
    """What a decoder that scores tokens cannot have, and whether it has it."""
    return {
        f"its decoder scores tokens and {what}": decoder.scores and has
        for what, has in {
            "is for llama.cpp, which does not say what attention pays": (
                "llama.cpp" in decoder.engines
            ),
            "drops some on its way": bool(decoder.stages),
            f"has attention that is not {CAUSAL}": decoder.attention != CAUSAL,
            "numbers them by rows and columns": POSITION_AXES.get(decoder.positions, 1) > 1,
            "has layers of convolutions": bool(decoder.conv_layers),
            "reads further features": bool(decoder.extras),
        }.items()
    }
