"""Knows how a GGUF decoder is held against transformers: in float32 exactly, in other types by what
they lose.

llama.cpp computes as exactly as it can meanwhile: flash attention off, the cache in float32.
"""

from collections.abc import Mapping
from typing import Any

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.ort.settings import EngineSettings
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.memory import component
from pocketvlm_export.verification.bounds import within
from pocketvlm_export.verification.kept import largest
from pocketvlm_export.verification.lost import Prompt, gate_sequences, measure_logits
from pocketvlm_export.verification.reference import (
    DecoderReference,
    Floats,
    PictureReference,
)

# float16 may prefer another token where the reference's two logits are this close, relative to the
# largest of all.
NEAR = 1e-3


def measure_gguf(
    artifact: Artifact,
    prompt: Prompt,
    reference: DecoderReference,
    picture: PictureReference,
    kind: str,
) -> dict[str, Any]:
    """Hold the artifact's GGUF file of a type against transformers.

    Args:
        artifact: whose file.
        prompt: the gate's prompt about one picture.
        reference: of that prompt, and of `gate_sequences`.
        picture: that picture, with the features that transformers made.
        kind: the type.
    """
    spec = artifact.manifest.decoder
    decoder = LlamaCppDecoder.from_file(
        artifact.path(spec.gguf[kind]),
        context=spec.context,
        hidden=spec.hidden,
        vocab=spec.vocab,
        positions=spec.positions,
        extras=spec.extras,
        first_position=spec.first_position,
        # Several wait for each other at every operation, which on a busy machine takes minutes.
        settings=EngineSettings(threads=1),
        f32_cache=True,
    )
    sequences = gate_sequences(spec.vocab, spec.context)
    with component(decoder):
        figures, scores = measure_logits(decoder, prompt, reference, picture, sequences)
    return {
        **figures,
        "passed": bool(figures["prompt_equal"]) and judge(kind, figures, scores, reference),
    }


def judge(
    kind: str, figures: Mapping[str, Any], scores: Floats, reference: DecoderReference
) -> bool:
    """Whether a type loses no more than it may; ``scores`` are those that each token of the
    reference's would be picked by."""
    equal = figures["greedy_equal"] == figures["greedy_tokens"]
    if kind == GATE_GGUF_TYPE:
        return equal and within(figures["max_abs"], figures["max_reference"])
    gguf_type, step = GGUF_TYPES[kind], figures["greedy_equal"]
    if gguf_type.same_tokens and not equal and not _near_tie(step, scores, reference):
        return False
    return bool(figures["cosine"] >= gguf_type.logits_cosine)


def _near_tie(step: int, scores: Floats, reference: DecoderReference) -> bool:
    """Whether the reference hardly prefers its token to ours at ``step``, the first to differ."""
    theirs = reference.scores[step]
    gap = theirs.max() - theirs[int(scores[step].argmax())]
    return bool(gap <= NEAR * max(1.0, largest(reference.logits[step])))
