"""Knows how a GGUF decoder is compared with transformers: in float32 exactly, in other types by
what they lose.

llama.cpp computes as exactly as it can meanwhile: flash attention off, the cache in float32.
"""

from collections.abc import Mapping
from typing import Any

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.gguf_header import read_header
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.decoders.llama_sequence import Reading
from pocketvlm.ort.settings import EngineSettings
from pocketvlm_export.gguf.architectures import rounds
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.memory import component
from pocketvlm_export.verification.bounds import TOLERANCE, within
from pocketvlm_export.verification.decoder_reference import DecoderReference, PictureReference
from pocketvlm_export.verification.kept import largest
from pocketvlm_export.verification.lost import Prompt, gate_sequences, measure_logits
from pocketvlm_export.verification.vision_reference import Floats

# Of the largest logit, how far a float32 file's may be off where llama.cpp rounds an activation on
# its way. 3e-4 were measured, and 3e-2 where the tokens of a picture do not see each other.
_ROUNDED = 5e-3
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
    path = artifact.path(spec.gguf[kind])
    decoder = LlamaCppDecoder.from_file(
        path,
        context=spec.context,
        hidden=spec.hidden,
        vocab=spec.vocab,
        positions=spec.positions,
        reading=Reading.of(spec),
        # Several wait for each other at every operation, which on a busy machine takes minutes.
        settings=EngineSettings(threads=1),
        f32_cache=True,
    )
    sequences = gate_sequences(spec.vocab, spec.context)
    with component(decoder):
        figures, scores = measure_logits(decoder, prompt, reference, picture, sequences)
    rounded = rounds(read_header(path).architecture)
    passed = judge(kind, figures, scores, reference, rounded=rounded)
    return {**figures, "passed": bool(figures["prompt_equal"]) and passed}


def judge(
    kind: str,
    figures: Mapping[str, Any],
    scores: Floats,
    reference: DecoderReference,
    *,
    rounded: bool = False,
) -> bool:
    """Whether a type loses no more than it may; ``scores`` are those that each token of the
    reference's would be picked by. Where llama.cpp has ``rounded`` on its way float32 is not exact
    either."""
    equal = figures["greedy_equal"] == figures["greedy_tokens"]
    if kind == GATE_GGUF_TYPE and not rounded:
        return equal and within(figures["max_abs"], figures["max_reference"])
    gguf_type, step = GGUF_TYPES[kind], figures["greedy_equal"]
    if gguf_type.same_tokens and not equal and not _near_tie(step, scores, reference):
        return False
    if kind == GATE_GGUF_TYPE:
        return within(figures["max_abs"] * TOLERANCE / _ROUNDED, figures["max_reference"])
    return bool(figures["cosine"] >= gguf_type.logits_cosine)


def _near_tie(step: int, scores: Floats, reference: DecoderReference) -> bool:
    """Whether the reference hardly prefers its token to ours at ``step``, the first to differ."""
    theirs = reference.scores[step]
    gap = theirs.max() - theirs[int(scores[step].argmax())]
    return bool(gap <= NEAR * max(1.0, largest(reference.logits[step])))
