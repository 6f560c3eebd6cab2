"""Knows transformers' caches and layers of language models, their frequencies, and what
``generate`` puts logits through."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PretrainedConfig,
)
from transformers.cache_utils import LinearAttentionLayer


def cache_of(past: Sequence[tuple[torch.Tensor, ...]]) -> Cache:
    """Return a cache that holds of each layer what `cached_layers` gives.

    ``ddp_cache_data`` is meant for torch's distributed training. `DynamicCache.update`, the public
    way, would trace a concatenation with nothing for each layer.

    What a convolution's layer holds has no public way in at all. Such a layer usually copies its
    state in place, which no graph does; while it "records the past" it makes a longer one instead.
    """
    if all(len(layer) == 2 for layer in past):
        return DynamicCache(ddp_cache_data=past)
    layers: list[Any] = []
    for tensors in past:
        if len(tensors) == 2:
            layers += DynamicCache(ddp_cache_data=[tensors]).layers
            continue
        (state,) = tensors
        layer = LinearAttentionLayer()
        layer.lazy_initialization(conv_states=state)
        layer.conv_states[0], layer.has_previous_state[0] = state, True
        layer.activate_past_recording()
        layers.append(layer)
    return Cache(layers=layers)


def cached_layers(cache: Cache) -> list[tuple[torch.Tensor, ...]]:
    """Return what each layer of a cache holds: (key, value), (B, kv_heads, tokens, head_dim) each,
    or of a convolution its last inputs alone, (B, hidden, width).

    ``layers`` and what lies in them have no documentation; iterating over the cache is deprecated.
    """
    return [
        (layer.conv_states[0][..., -layer.conv_kernel_size[0] :],)
        if isinstance(layer, LinearAttentionLayer)
        else (layer.keys, layer.values)
        for layer in cache.layers
    ]


def run_decoder_layer(
    layer: nn.Module,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    cache: DynamicCache,
) -> torch.Tensor:
    """Run one layer of a causal language model of the Llama kind; the signature is internal.

    Args:
        layer: of ``model.model.layers``.
        hidden: (B, S, hidden).
        mask: added to attention's products, (B, 1, S, past + S).
        angles: cosines and sines as ``model.model.rotary_emb`` gives them.
        cache: grows by the layer's keys and values.
    """
    output: torch.Tensor = layer(
        hidden,
        attention_mask=mask,
        position_embeddings=angles,
        past_key_values=cache,
        use_cache=True,
    )
    return output


def rope_frequencies(config: PretrainedConfig, kind: str) -> tuple[torch.Tensor, float]:
    """Return the rotary frequencies of a configuration, float32 (head_dim / 2,), and the factor
    that cosines and sines are multiplied by.

    ``modeling_rope_utils`` is a module for transformers' own models.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, device="cpu")
    return frequencies, float(factor)


def greedy_processors(
    settings: GenerationConfig,
    prompt: Sequence[int],
    new_tokens: int,
    *,
    eos_token_ids: Sequence[int] = (0,),
    vocab: int,
) -> LogitsProcessorList:
    """Return what transformers' ``generate`` puts logits (1, vocab) through for a greedy answer of
    so many ``new_tokens`` to a prompt, in its order; called with ids (1, n) of prompt and answer.

    Guidance, which runs the model a second time, and watermarks are left out, as is a logarithm at
    the end, which changes no choice. The list is made by a method that ``generate`` keeps to
    itself; its order is documented nowhere. Settings that it refuses raise ValueError or TypeError.
    """
    made = GenerationConfig.from_dict(settings.to_dict())
    made.num_return_sequences = 1  # more of them need the beams that are taken away here
    made.update(do_sample=False, num_beams=1, guidance_scale=None, watermarking_config=None)
    made.update(renormalize_logits=None, eos_token_id=list(eos_token_ids), pad_token_id=0)
    made.max_length = len(prompt) + new_tokens
    if made.min_new_tokens is not None:
        made.min_length = len(prompt) + made.min_new_tokens
    maker = GenerationMixin()
    maker.config = PretrainedConfig()
    maker._prepare_special_tokens(made, device="cpu")
    ids = torch.tensor([list(prompt)], dtype=torch.int64)
    processors = maker._get_logits_processor(
        made, input_ids_seq_length=len(prompt), encoder_input_ids=ids, device="cpu"
    )
    # Some of them check what they were given only when they are called.
    for so_far in (ids, torch.zeros((1, made.max_length - 1), dtype=torch.int64)):
        processors(so_far, torch.zeros((1, vocab)))
    return processors
