"""Knows how a GGUF decoder is held against transformers: in float32 exactly, in other types by what they lose.

llama.cpp computes as exactly as it can meanwhile: flash attention off, the cache in float32. Both sides read the same
tokens whatever they would have said themselves, so that every position can be compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pocketvlm.artifact import Artifact
from pocketvlm.decoders import Segment, TokenSegment
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.prompts import Prompter
from pocketvlm_export.memory import release_memory
from pocketvlm_export.options import GATE_GGUF_TYPE, GATE_PROMPT
from pocketvlm_export.verification.bounds import agreement, cosine, within
from pocketvlm_export.verification.kept import largest
from pocketvlm_export.verification.reference import DecoderReference, Floats, Ints

# Of the logits of all positions. Lower ones mean a broken file: four bits left .88 of a random decoder 64 wide, the
# hardest case, and .999 of a trained one.
MIN_COSINE: Mapping[str, float] = {"f16": 0.999, "q8_0": 0.99, "q4_0": 0.7, "q4_k_m": 0.7}
# float16 may prefer another token where the reference's two logits are this close, relative to the largest of all.
NEAR = 1e-3
_SEQUENCES, _LENGTH = 4, 32


def gate_sequences(vocab: int, context: int) -> list[Ints]:
    """Return sequences of token ids, int64 (tokens,), the same at every call."""
    shape = (_SEQUENCES, min(_LENGTH, context))
    return list(np.random.default_rng(20241202).integers(0, vocab, size=shape))


def measure_gguf(artifact: Artifact, reference: DecoderReference, features: Floats, kind: str) -> dict[str, Any]:
    """Hold the artifact's GGUF file of a type against transformers.

    Args:
        artifact: whose file.
        reference: of the gate's prompt about a picture, and of `gate_sequences`.
        features: of that picture's kept patches, (k, hidden).
        kind: the type.
    """
    spec = artifact.manifest.decoder
    prompter = Prompter.from_artifact(artifact)
    ids = prompter.encode(GATE_PROMPT, pictures=1, slots=len(features))
    decoder = LlamaCppDecoder.from_file(
        artifact.path(spec.gguf[kind]), context=spec.context, hidden=spec.hidden, vocab=spec.vocab, f32_cache=True
    )
    answer = _read(decoder, prompter.segments(ids, [features]), reference.token_ids[:-1])
    sequences = [
        _read(decoder, [TokenSegment(row[:1])], row[1:].tolist()) for row in gate_sequences(spec.vocab, spec.context)
    ]
    decoder.close()
    release_memory()
    ours, theirs = np.concatenate([answer, *sequences]), np.concatenate([reference.logits, *reference.sequence_logits])
    lost = divergence(theirs, ours)
    figures = {
        "max_abs": largest(ours - theirs),
        "max_reference": float(np.max([1.0, largest(theirs)])),
        "cosine": cosine(ours, theirs),
        "greedy_tokens": len(reference.token_ids),
        "greedy_equal": agreement([int(row.argmax()) for row in answer], reference.token_ids),
        "prompt_equal": np.array_equal(ids, reference.prompt_ids),
        "positions": len(ours),
        "argmax_agreement": float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
        "kl_mean": float(lost.mean()),
        "kl_max": float(lost.max()),
    }
    return {**figures, "passed": bool(figures["prompt_equal"]) and judge(kind, figures, answer, reference)}


def judge(kind: str, figures: Mapping[str, Any], answer: Floats, reference: DecoderReference) -> bool:
    """Whether a type loses no more than it may; ``answer`` are the logits before each token of the reference's."""
    equal = figures["greedy_equal"] == figures["greedy_tokens"]
    if kind == GATE_GGUF_TYPE:
        return equal and within(figures["max_abs"], figures["max_reference"])
    if kind == "f16" and not equal and not _near_tie(figures["greedy_equal"], answer, reference):
        return False
    return bool(figures["cosine"] >= MIN_COSINE[kind])


def divergence(reference: Floats, found: Floats) -> Floats:
    """Kullback-Leibler divergence of what is ``found`` from the ``reference``, in nats: (n, vocab) twice -> (n,)."""
    p, q = (torch.from_numpy(rows).double().log_softmax(dim=1) for rows in (reference, found))
    result: Floats = (p.exp() * (p - q)).sum(dim=1).numpy()
    return result


def _near_tie(step: int, answer: Floats, reference: DecoderReference) -> bool:
    """Whether the reference can hardly tell the token that is ours at ``step``, the first to differ, from its own."""
    theirs = reference.logits[step]
    gap = theirs.max() - theirs[int(answer[step].argmax())]
    return bool(gap <= NEAR * max(1.0, largest(theirs)))


def _read(decoder: LlamaCppDecoder, segments: Sequence[Segment], following: Sequence[int]) -> Floats:
    """Logits after ``segments`` and after each of the ``following`` tokens: (1 + following, vocab)."""
    decoder.reset()
    return np.stack([decoder.prefill(segments), *(decoder.decode(token) for token in following)])
