"""LLaVA (``model_type: llava``): a CLIP or DINOv2 tower, a two-layer projector, a Llama, Mistral or
Qwen2 decoder."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from pocketvlm.errors import CheckpointError
from pocketvlm.layouts import Medium
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.spec import DecoderSpec, VisionSpec, VLMSpec
from pocketvlm_export.towers import TOWERS

DECODERS: dict[str, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}
_WITHOUT_CLS = {"pixtral", "siglip_vision_model", "siglip2_vision_model"}
_EMBEDDING = "decoder.model.embed_tokens.weight"
_HEAD = "decoder.lm_head.weight"
# Others change their frequencies with the sequence at hand, which one graph for prefill and decode
# cannot.
_STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
# Published files, transformers 4 and transformers 5 name the same weights differently; the first
# match decides.
_RULES = [
    (re.compile(r"^(model\.)?vision_tower\.(vision_model\.)?"), "vision_tower."),
    (re.compile(r"^(model\.)?multi_modal_projector\."), "projector."),
    (re.compile(r"^(language_model\.model|model\.language_model)\."), "decoder.model."),
    (re.compile(r"^(language_model\.)?lm_head\."), "decoder.lm_head."),
]


class Llava:
    """The `Family` of LLaVA 1.5 and its like."""

    model_type = "llava"
    processor = "LlavaProcessor"
    medium: Medium = "image"
    projector: type[nn.Module] = upstream.LlavaMultiModalProjector
    rules: Sequence[tuple[re.Pattern[str], str]] = _RULES

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        return VLMSpec(
            self, config, _vision(config), decoder_spec(config), int(config.image_token_id)
        )

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """As it is."""
        return spec

    def canonical(self, stored: str) -> str | None:
        """See `Family.canonical`."""
        for pattern, component in self.rules:
            name, count = pattern.subn(component, stored)
            if count:
                return name
        return None

    def load_tower(
        self, weights: Weights, spec: VLMSpec, *, layers: int, attention: str
    ) -> PreTrainedModel:
        """See `Family.load_tower`."""
        config = with_changes(spec.vision.config, num_hidden_layers=layers)
        tower = TOWERS[config.model_type]
        above = (
            f"{tower.layers_prefix}{i}."
            for i in range(layers, spec.vision.config.num_hidden_layers)
        )
        unused = "|".join(re.escape(name) for name in (*above, *tower.unread))
        state = weights.component("vision_tower.", without=unused or "(?!)")
        return _fill(tower.model, config, state, attention)

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """See `Family.load_projector`."""
        with torch.device("meta"):
            projector = self.projector(spec.config)
        _assign(projector, weights.component("projector."), "projector")
        return projector.eval()

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The projector."""
        return self.load_projector(weights, spec)

    def load_constants(self, weights: Weights, spec: VLMSpec) -> Mapping[str, torch.Tensor]:
        """None."""
        return {}

    def load_decoder(self, weights: Weights, spec: VLMSpec, *, attention: str) -> PreTrainedModel:
        """See `Family.load_decoder`."""
        config = with_changes(spec.decoder.config, tie_word_embeddings=False)
        state = weights.component(
            "decoder.", without=r"lm_head\.|model\.embed_tokens\.|.*rotary_emb\.inv_freq"
        )
        head = _table(_HEAD, _EMBEDDING, weights, spec.decoder)
        # The input embedding is never read: the head takes its place while the model is built, at
        # no memory.
        state |= {"lm_head.weight": head, "model.embed_tokens.weight": head}
        model = _fill(DECODERS[config.model_type], config, state, attention, whole=True)
        model.set_input_embeddings(nn.Identity())
        return model

    def load_embedding(self, weights: Weights, spec: VLMSpec) -> nn.Embedding:
        """See `Family.load_embedding`."""
        table = _table(_EMBEDDING, _HEAD, weights, spec.decoder)
        return nn.Embedding.from_pretrained(table, freeze=True).eval()


def _vision(config: Any) -> VisionSpec:
    tower = config.vision_config
    supported = [name for name, kind in TOWERS.items() if kind.has_cls]
    if tower.model_type not in supported:
        lacks = (
            " and has no [CLS] token to rank patches by" if tower.model_type in _WITHOUT_CLS else ""
        )
        raise CheckpointError(
            f"the vision tower is a {tower.model_type}, which is not supported{lacks}",
            advice=f"use a checkpoint with a {' or '.join(supported)} tower",
        )
    listed = config.vision_feature_layer
    indices = [listed] if isinstance(listed, int) else list(listed)
    depth = tower.num_hidden_layers
    layers = tuple(index if index >= 0 else depth + 1 + index for index in indices)
    if not layers or not all(1 <= index <= depth for index in layers):
        raise CheckpointError(
            f"vision_feature_layer {listed} names no layer of a tower with {depth}",
            expected=f"-{depth}..-1 or 1..{depth}",
        )
    if config.vision_feature_select_strategy != "default":
        raise CheckpointError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} feeds [CLS] "
            "to the decoder, which is not supported",
            advice="export a checkpoint that uses 'default'",
        )
    side, patch = int(tower.image_size), int(tower.patch_size)
    return VisionSpec(
        tower, (side, side), (side // patch) ** 2, has_cls=True, feature_layers=layers
    )


def decoder_spec(config: Any) -> DecoderSpec:
    """Return the dimensions of a family's decoder; raises `CheckpointError` for one that is not
    supported."""
    text = config.text_config
    if text.model_type not in DECODERS:
        raise CheckpointError(
            f"the decoder is a {text.model_type}, which is not supported",
            expected=f"one of {', '.join(DECODERS)}",
            advice=f"use a {config.model_type} checkpoint with such a decoder",
        )
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _STATIC_ROPE:
        raise CheckpointError(
            f"rope type {rope!r} is not supported",
            expected=f"one of {', '.join(sorted(_STATIC_ROPE))}",
        )
    normal = upstream.normalized_config(text)
    heads = normal.num_attention_heads
    return DecoderSpec(
        config=text,
        layers=normal.num_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or normal.hidden_size // heads,
        hidden=normal.hidden_size,
        vocab=normal.vocab_size,
        context=text.max_position_embeddings,
        tied=bool(config.tie_word_embeddings),
    )


def with_changes(config: PretrainedConfig, **changes: Any) -> PretrainedConfig:
    """Return a copy with some values replaced."""
    changed = copy.deepcopy(
        config
    )  # not by way of a dict: DINOv2's lists stages that a cut tower no longer has
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _fill(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    state: dict[str, torch.Tensor],
    attention: str,
    *,
    whole: bool = False,
) -> PreTrainedModel:
    """Build ``cls`` around the given tensors without allocating its parameters first; ``whole``
    leaves none unused."""
    model, info = upstream.fill(cls, config, state, attention)
    problems = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    problems += sorted(info["unexpected_keys"]) if whole else []
    if problems:
        raise CheckpointError(
            f"{cls.__name__} weights do not fit its configuration ({problems[0]}; the checkpoint "
            "is incomplete, or its config.json is another model's)",
            advice="download it again",
        )
    return model.eval()


def _table(name: str, other: str, weights: Weights, spec: DecoderSpec) -> torch.Tensor:
    """Return the embedding or the head, (vocab, hidden).

    Where they are tied one is stored for both. Where both are stored each keeps its own values,
    whatever is configured: so transformers does (`PreTrainedModel.tie_weights`).
    """
    stored = other if spec.tied and name not in weights.names else name
    table = weights.tensor(stored)
    check_shape(stored, table, (spec.vocab, spec.hidden))
    return table


def _assign(module: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    expected = module.state_dict()
    if odd := sorted(expected.keys() ^ state.keys()):
        problem = "the checkpoint lacks" if odd[0] in expected else "config.json has no place for"
        raise CheckpointError(
            f"{problem} the weight {name}.{odd[0]} (weights and configuration belong to two "
            "models, or the checkpoint is incomplete)",
            advice="download it again",
        )
    for key, parameter in expected.items():
        check_shape(f"{name}.{key}", state[key], tuple(parameter.shape))
    module.load_state_dict(state, assign=True)


def check_shape(name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
    """Refuse a weight of another shape than config.json states; raises `CheckpointError`."""
    if tuple(tensor.shape) != expected:
        raise CheckpointError(
            f"weight {name} has shape {tuple(tensor.shape)} and by config.json {expected} "
            "(weights and configuration belong to two models)",
            advice="download both again",
        )
