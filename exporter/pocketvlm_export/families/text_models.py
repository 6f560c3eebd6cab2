"""Knows the language models that a family's decoder may be: how their configuration reads, and how
they are built.

A new one is a line of `TEXT_MODELS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    GemmaForCausalLM,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLTextModel,
    Qwen2ForCausalLM,
    Qwen2VLTextModel,
    Qwen3ForCausalLM,
    Qwen3VLTextModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from pocketvlm.errors import CheckpointError
from pocketvlm_export.checkpoint.settings import Settings
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import check_shape, fill, with_changes
from pocketvlm_export.families.spec import DecoderSpec

_EMBEDDING = "decoder.model.embed_tokens.weight"
_HEAD = "decoder.lm_head.weight"
# Others change their frequencies with the sequence at hand, which one graph for prefill and decode
# cannot.
_STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
_CONVOLUTION, _ATTENTION = "conv", "full_attention"  # kinds of layers, as transformers names them
_MOST_KERNEL = 1000
_DYNAMIC = "dynamic"  # changes them beyond max_position_embeddings alone, where no artifact goes


@dataclass(frozen=True)
class TextModel:
    """One architecture of language model.

    Attributes:
        cls: transformers' class, with its head or without.
        has_head: whether it has. Text models that exist only inside a vision-language model have
            none of their own, and get one here.
        positions: how it numbers tokens, one of `pocketvlm.decoders.positions.POSITIONS`.
        scaled: whether it multiplies the embeddings of tokens by the root of their width.
        settled: the configuration of the same model whose ``intermediate_size`` is the MLP's width.
    """

    cls: type[PreTrainedModel]
    has_head: bool = True
    positions: str = "contiguous"
    scaled: bool = False
    settled: Callable[[Any], Any] = lambda text: text


def _with_width(text: Any) -> Any:
    """LFM2's configuration with the width that `Lfm2MLP` makes of what it states."""
    settings = Settings.of(text, "text_config.")
    if not settings.boolean("block_auto_adjust_ff_dim", True):
        return text
    width = 2 * settings.integer("intermediate_size") // 3
    multiplier = text.block_ffn_dim_multiplier
    if multiplier is not None:
        multiple = settings.integer("block_multiple_of")
        scaled = int(settings.number("block_ffn_dim_multiplier") * width)
        width = multiple * math.ceil(scaled / multiple)
    return with_changes(text, intermediate_size=width, block_auto_adjust_ff_dim=False)


TEXT_MODELS: Mapping[str, TextModel] = {
    "gemma": TextModel(GemmaForCausalLM, scaled=True),
    "gemma2": TextModel(Gemma2ForCausalLM, scaled=True),
    "gemma3_text": TextModel(Gemma3ForCausalLM, scaled=True),
    "lfm2": TextModel(Lfm2ForCausalLM, settled=_with_width),
    "llama": TextModel(LlamaForCausalLM),
    "mistral": TextModel(MistralForCausalLM),
    "qwen2": TextModel(Qwen2ForCausalLM),
    "qwen3": TextModel(Qwen3ForCausalLM),
    "qwen2_vl_text": TextModel(Qwen2VLTextModel, has_head=False, positions="mrope"),
    "qwen2_5_vl_text": TextModel(Qwen2_5_VLTextModel, has_head=False, positions="mrope"),
    "qwen3_vl_text": TextModel(Qwen3VLTextModel, has_head=False, positions="mrope"),
}


class HeadedTextModel(nn.Module):
    """A text model and its head, called as transformers' ``...ForCausalLM`` classes are.

    inputs_embeds (B, S, hidden), position_ids (axes, B, S) -> logits (B, n, vocab) of the last n
    tokens, ``logits_to_keep`` of them or all, and the cache.
    """

    def __init__(self, model: PreTrainedModel, head: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.lm_head = nn.Linear(head.shape[1], head.shape[0], bias=False, device="meta")
        self.lm_head.weight = nn.Parameter(head, requires_grad=False)

    @property
    def config(self) -> PretrainedConfig:
        """The text model's."""
        return self.model.config

    def forward(self, *, logits_to_keep: int = 0, **inputs: Any) -> CausalLMOutputWithPast:
        """See the class."""
        output = self.model(**inputs)
        hidden = output.last_hidden_state[:, -logits_to_keep:]
        return CausalLMOutputWithPast(
            logits=self.lm_head(hidden), past_key_values=output.past_key_values
        )


def decoder_spec(config: Any) -> DecoderSpec:
    """Return the dimensions of a vision-language model's decoder; raises `CheckpointError` for one
    that is not supported."""
    text = _within_context(Settings.of(config).section("text_config").values)
    settings = Settings.of(text, "text_config.")
    if settings.text("model_type") not in TEXT_MODELS:
        raise CheckpointError(
            f"the decoder is a {text.model_type}, which is not supported",
            expected=f"one of {', '.join(TEXT_MODELS)}",
            advice=f"use a {config.model_type} checkpoint with such a decoder",
        )
    for rope in _rope_types(text):
        if rope not in _STATIC_ROPE:
            raise CheckpointError(
                f"rope type {rope!r} is not supported",
                expected=f"one of {', '.join(sorted(_STATIC_ROPE | {_DYNAMIC}))}",
            )
    kind = TEXT_MODELS[text.model_type]
    text = kind.settled(text)
    layers = settings.integer("num_hidden_layers")
    convolutions = _convolutions(text, layers)
    heads, hidden = settings.integer("num_attention_heads"), settings.integer("hidden_size")
    return DecoderSpec(
        config=text,
        layers=layers,
        heads=heads,
        kv_heads=settings.integer("num_key_value_heads", heads),
        head_dim=settings.integer("head_dim", hidden // heads),
        hidden=hidden,
        vocab=settings.integer("vocab_size"),
        context=settings.integer("max_position_embeddings"),
        tied=Settings.of(config).boolean("tie_word_embeddings", False),
        positions=kind.positions,
        conv_layers=convolutions,
        # Its cache holds as many inputs as its kernel is long.
        conv_width=settings.integer("conv_L_cache", most=_MOST_KERNEL) if convolutions else 0,
    )


def _convolutions(text: Any, layers: int) -> tuple[int, ...]:
    """The numbers of the layers that are convolutions along the sequence; raises `CheckpointError`
    where there are other layers than those, or too few are listed."""
    kinds = getattr(text, "layer_types", None) or ()
    numbers = tuple(number for number, kind in enumerate(kinds) if kind == _CONVOLUTION)
    if numbers and (len(kinds) != layers or set(kinds) - {_CONVOLUTION, _ATTENTION}):
        raise CheckpointError(
            f"text_config.layer_types has {', '.join(map(str, sorted(set(kinds))))} for "
            f"{len(kinds)} of {layers} layers",
            expected=f"{_CONVOLUTION} or {_ATTENTION} for each",
        )
    if numbers and len(numbers) == layers:
        raise CheckpointError(
            "no layer of the decoder attends to pictures", expected=f"{_ATTENTION} in layer_types"
        )
    return numbers


def load_text_model(weights: Weights, spec: DecoderSpec, *, attention: str) -> nn.Module:
    """Return the causal language model, float32 in eval mode, without its input embedding: it is
    fed ``inputs_embeds``."""
    kind = TEXT_MODELS[spec.config.model_type]
    config = with_changes(spec.config, tie_word_embeddings=False)
    state = weights.component(
        "decoder.", without=r"lm_head\.|model\.embed_tokens\.|.*rotary_emb\.inv_freq"
    )
    head = load_table(_HEAD, _EMBEDDING, weights, spec)
    # The input embedding is never read: the head takes its place while the model is built, at no
    # memory.
    state["model.embed_tokens.weight"] = head
    if kind.has_head:
        model = fill(kind.cls, config, state | {"lm_head.weight": head}, attention, whole=True)
        model.set_input_embeddings(nn.Identity())
        return model
    own = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    text = fill(kind.cls, config, own, attention, whole=True)
    text.set_input_embeddings(nn.Identity())
    return HeadedTextModel(text, head).eval()


class ScaledEmbedding(nn.Module):
    """Rows of a table times a number: int64 (B, n) -> (B, n, hidden).

    The table itself stays as it is, so that a tied head can share it.
    """

    def __init__(self, table: nn.Embedding, scale: float) -> None:
        super().__init__()
        self.table = table
        self.scale = scale

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """See the class."""
        rows: torch.Tensor = self.table(ids)
        return rows * self.scale


def load_embedding(weights: Weights, spec: DecoderSpec) -> nn.Module:
    """Return the input embedding of ids, (B, n) -> (B, n, hidden)."""
    table = load_table(_EMBEDDING, _HEAD, weights, spec)
    embedding = nn.Embedding.from_pretrained(table, freeze=True)
    if TEXT_MODELS[spec.config.model_type].scaled:
        return ScaledEmbedding(embedding, spec.hidden**0.5).eval()
    return embedding.eval()


def load_table(name: str, other: str, weights: Weights, spec: DecoderSpec) -> torch.Tensor:
    """Return the embedding or the head, (vocab, hidden).

    Where they are tied one is stored for both. Where both are stored each keeps its own values,
    whatever is configured: so transformers does (`PreTrainedModel.tie_weights`).
    """
    stored = other if spec.tied and name not in weights.names else name
    table = weights.tensor(stored)
    check_shape(stored, table, (spec.vocab, spec.hidden))
    return table


def _within_context(text: Any) -> Any:
    """The configuration of the same model on no longer sequences than it was trained on: there
    dynamic rope is rope without scaling."""
    stated = _rope(text)
    if stated.get("rope_type") != _DYNAMIC:
        return text
    rope = {name: value for name, value in stated.items() if name not in ("factor", "type")}
    return with_changes(text, rope_parameters={**rope, "rope_type": "default"})


def _rope(text: Any) -> Mapping[str, Any]:
    """A configuration's rope parameters, an empty mapping where it has none."""
    stated = Settings.of(text, "text_config.").section("rope_parameters").values
    assert isinstance(stated, Mapping)
    return stated


def _rope_types(text: Any) -> set[str]:
    """The types of a configuration's rope parameters, which some models nest by kind of layer."""
    stated = _rope(text)
    nested = [value for value in stated.values() if isinstance(value, Mapping)]
    return {str(each.get("rope_type", "default")) for each in nested or [stated]}
