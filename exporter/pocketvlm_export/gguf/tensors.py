"""Knows which tensors a GGUF decoder is made of, and how each comes from the checkpoint; loads one
at a time."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gguf
import torch

from pocketvlm.errors import CheckpointError
from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.gguf.architectures import Architecture, architecture
from pocketvlm_export.gguf.rope import rope_factors
from pocketvlm_export.loading import Checkpoint

_PREFIX = "decoder."
_EMBEDDING = "decoder.model.embed_tokens.weight"
_HEAD = "decoder.lm_head.weight"
_UNUSED = re.compile(
    r".*rotary_emb\.inv_freq$"
)  # older checkpoints store what follows from the configuration
_NORM = re.compile(r".*norm\.weight$")
_KERNELS = re.compile(r".*\.conv\.conv\.weight$")  # (channels, 1, length) in torch
_QUERY_OR_KEY = re.compile(r".*self_attn\.([qk])_proj\.(weight|bias)$")


@dataclass(frozen=True)
class DecoderTensor:
    """A tensor of the file: its name there, its shape, and how to load it as float32. ``exact`` is
    one that stays so, whatever the file's type."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    exact: bool = False


def decoder_tensors(checkpoint: Checkpoint) -> Iterator[DecoderTensor]:
    """Yield the tensors of a checkpoint's decoder, none of them loaded.

    Raises:
        PocketVLMError: the checkpoint has a weight that llama.cpp's architecture has no place for.
    """
    spec, weights = checkpoint.spec.decoder, checkpoint.weights
    arch = architecture(spec)
    names = gguf.get_tensor_name_map(arch.name, spec.layers)
    factors = rope_factors(spec.config, spec.head_dim)
    if factors is not None:
        yield DecoderTensor(
            f"{gguf.TENSOR_NAMES[gguf.MODEL_TENSOR.ROPE_FREQS]}.weight",
            tuple(factors.shape),
            lambda: factors,
        )
    dropped = _tied(checkpoint)
    for stored, (_, _, shape) in weights.names.items():
        if not stored.startswith(_PREFIX) or _UNUSED.match(stored) or stored == dropped:
            continue
        # A tied table that is stored under the head's name alone is llama.cpp's embedding.
        role = _EMBEDDING if stored == _HEAD and dropped == _EMBEDDING else stored
        name = names.get_name(role.removeprefix(_PREFIX), try_suffixes=(".weight", ".bias"))
        if name is None:
            raise CheckpointError(
                f"the decoder has a weight {stored} that llama.cpp's {arch.name.name.lower()} has "
                "no place for",
                advice="export it with --decoder onnx",
                setting="decoder",
            )
        if _KERNELS.match(stored):
            kernels = _squeezed(checkpoint, stored)
            yield DecoderTensor(name, (shape[0], shape[-1]), kernels, exact=True)
            continue
        yield DecoderTensor(name, shape, _loader(checkpoint, stored, arch))


def _squeezed(checkpoint: Checkpoint, stored: str) -> Callable[[], torch.Tensor]:
    """A kernel of a channel each, without the axis for the channels that it mixes."""
    return lambda: checkpoint.weights.tensor(stored).squeeze(1)


def interleave_halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of queries or keys, (heads * head_dim, ...), so that the partners of a
    rotation, which lie half a head apart, become neighbours."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _loader(checkpoint: Checkpoint, stored: str, arch: Architecture) -> Callable[[], torch.Tensor]:
    match = _QUERY_OR_KEY.match(stored)
    if arch.norm_offset and _NORM.match(stored):
        return lambda: checkpoint.weights.tensor(stored) + arch.norm_offset
    if not arch.interleaved or not match:
        return lambda: checkpoint.weights.tensor(stored)
    heads = _heads(checkpoint.spec.decoder, match.group(1))
    return lambda: interleave_halves(checkpoint.weights.tensor(stored), heads)


def _heads(spec: DecoderSpec, kind: str) -> int:
    heads: int = spec.config.num_attention_heads if kind == "q" else spec.kv_heads
    return heads


def _tied(checkpoint: Checkpoint) -> str | None:
    """Return which of the embedding and the head is left out of the file because it is the other
    one again.

    llama.cpp takes the embedding for the head where there is none. Where a checkpoint stores both,
    each keeps its own values in transformers, whatever is configured: one is left out only
    if they are equal.
    """
    weights = checkpoint.weights
    if not checkpoint.spec.decoder.tied:
        return None
    if _HEAD not in weights.names:
        return _HEAD
    if _EMBEDDING not in weights.names:
        return _EMBEDDING
    return _HEAD if torch.equal(weights.tensor(_HEAD), weights.tensor(_EMBEDDING)) else None
