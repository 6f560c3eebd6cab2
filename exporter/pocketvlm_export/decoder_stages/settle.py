"""Knows which decoders can have stages, and which stages one can have."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PretrainedConfig

from pocketvlm.artifact.specs import POSITION_AXES
from pocketvlm.artifact.stages import Stage
from pocketvlm.decoders.attention import TITLES
from pocketvlm.errors import RequestError
from pocketvlm_export.decoder_stages import find_ranking, named
from pocketvlm_export.families import VLMSpec

_WITHOUT = "leave --decoder-stage out"


def settle_decoder_stages(
    stages: Sequence[Stage], spec: VLMSpec, *, budget: int, slots: int, context: int
) -> tuple[Stage, ...]:
    """Return the stages with their ``by`` named.

    Args:
        stages: in order of layers, each keeping fewer tokens than the one before.
        spec: of the checkpoint.
        budget: the smallest that graphs are exported for.
        slots: visual tokens that a picture has at most there.
        context: the longest sequence.

    Raises:
        RequestError: a decoder that cannot have stages, or a stage that this one cannot have.
    """
    if not stages:
        return ()
    _check_decoder(spec, context)
    settled = tuple(named(stage) for stage in stages)
    for stage in settled:
        _check_stage(stage, spec.decoder.layers, budget, slots)
    return settled


def check_scores(spec: VLMSpec, context: int) -> None:
    """Refuse decoders of which `pocketvlm_export.graphs.scores` does not say what their attention
    pays to each token; ``context`` is the longest sequence."""
    decoder = spec.decoder
    window = _window(decoder.config)
    for why, holds in {
        TITLES[decoder.attention]: bool(TITLES[decoder.attention]),
        "tokens are numbered by rows and columns": POSITION_AXES[decoder.positions] > 1,
        "some layers are convolutions along the sequence": bool(decoder.conv_layers),
        "it reads further features of a picture": bool(decoder.extras),
        f"attention slides over {window} of {context} tokens": (
            window is not None and window < context
        ),
    }.items():
        if holds:
            raise RequestError(
                "attention to each token is not proven on the decoders of "
                f"{spec.family.model_type} checkpoints, where {why}",
                advice="leave --decoder-scores out",
                setting="decoder_scores",
            )


def _check_decoder(spec: VLMSpec, context: int) -> None:
    if title := TITLES[spec.decoder.attention]:
        raise _refusal(
            "dropping tokens between layers is not proven on the decoders of "
            f"{spec.family.model_type} checkpoints, where {title}"
        )
    if POSITION_AXES[spec.decoder.positions] > 1:
        raise _refusal(
            "dropping tokens between layers is not proven on decoders that number tokens by rows "
            f"and columns, as {spec.family.model_type} checkpoints have"
        )
    if spec.decoder.conv_layers:
        raise _refusal(
            "a decoder stage drops tokens between layers, and layers of this decoder are "
            "convolutions along the sequence, which would read other neighbours then"
        )
    if spec.decoder.extras:
        raise _refusal(
            "dropping tokens between layers is not proven on decoders that read further features "
            f"of a picture, as {spec.family.model_type} checkpoints have"
        )
    window = _window(spec.decoder.config)
    if window is not None and window < context:
        raise _refusal(
            f"the decoder's attention slides over {window} tokens, and where tokens are dropped "
            "between layers it would reach further than the checkpoint's",
            f"give --context {window}, or prune in the vision graph alone",
        )


def _check_stage(stage: Stage, layers: int, budget: int, slots: int) -> None:
    if not 1 <= stage.layer < layers:
        raise _refusal(
            f"decoder stage {stage}: layer {stage.layer} is outside 1..{layers - 1} (this decoder "
            f"has {layers} layers, and tokens are ranked by what the one before does)",
            f"give a layer of 1..{layers - 1}",
        )
    if stage.keep >= slots:
        raise _refusal(
            f"decoder stage {stage}: keep {stage.keep} is outside 1..{slots - 1} (at budget "
            f"{budget} a picture has {slots} visual tokens to drop from)",
            f"keep fewer, or {_WITHOUT}",
        )
    ranks = find_ranking(stage.by).ranks
    if ranks != bool(stage.keep):
        raise _refusal(
            f"decoder stage {stage} keeps {stage.keep} visual tokens by {stage.by}, which "
            + ("ranks them" if ranks else "keeps none"),
            f"keep at least 1, or give {replace(stage, by='')}" if ranks else "keep 0",
        )


def _refusal(reason: str, advice: str = _WITHOUT) -> RequestError:
    return RequestError(reason, advice=advice, setting="decoder_stage")


def _window(config: PretrainedConfig) -> int | None:
    """How many tokens layers with sliding attention reach, None where no layer has it."""
    types = getattr(config, "layer_types", None) or ["sliding_attention"]
    return getattr(config, "sliding_window", None) if "sliding_attention" in types else None
