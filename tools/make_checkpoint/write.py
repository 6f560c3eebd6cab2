"""Knows which files a checkpoint is made of, and writes all of them."""

from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from make_checkpoint.hub import HubPreset, write_hub_checkpoint
from make_checkpoint.hub_presets import HUB_FAMILIES
from make_checkpoint.presets import Preset
from make_checkpoint.text import (
    make_processor,
    make_tiling_processor,
    make_tokenizer,
    save_processor,
    save_video_processor,
)
from make_checkpoint.weights import write_weights

_DECODERS: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
_TOWERS: dict[str, type[PretrainedConfig]] = {
    "clip_vision_model": CLIPVisionConfig,
    "dinov2": Dinov2Config,
    "siglip_vision_model": SiglipVisionConfig,
    "idefics3_vision": Idefics3VisionConfig,
    "smolvlm_vision": SmolVLMVisionConfig,
}
_FAMILIES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    "video_llava": (VideoLlavaConfig, VideoLlavaForConditionalGeneration),
}
# These name their settings otherwise than LLaVA does, and their weights as transformers has always
# held them.
_TILING = ("idefics3", "smolvlm")
# Towers in what llava-hf uploaded have a ``vision_model`` of their own, but for those whose class
# had none in transformers 4.
_NEVER_NESTED = ("dinov2",)


def make_checkpoint(
    preset: Preset | HubPreset,
    folder: Path,
    *,
    seed: int = 0,
    dtype: str = "float32",
    layout: str = "classic",
    shard_bytes: int = 10**9,
) -> Path:
    """Write a checkpoint with random weights that the ``from_pretrained`` of its family's class
    loads.

    The same ``seed`` gives the same values whatever the ``layout`` and the shards (``dtype`` rounds
    them). Memory stays near ``shard_bytes`` plus the largest tensor in float32. Returns ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(preset, HubPreset):
        write_hub_checkpoint(
            preset,
            HUB_FAMILIES[preset.family],
            folder,
            seed=seed,
            dtype=dtype,
            layout=layout,
            shard_bytes=shard_bytes,
        )
        return folder
    tokenizer = make_tokenizer(preset.chat)
    config = build_config(preset, tokenizer)
    config.dtype = dtype
    config.save_pretrained(folder)
    GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(folder)
    write_processor(preset, tokenizer, folder)
    shapes = weight_shapes(config)
    write_weights(
        shapes,
        folder,
        seed=seed,
        dtype=getattr(torch, dtype),
        layout=_layout(preset, layout),
        shard_bytes=shard_bytes,
        residual=preset.residual,
        embedding=preset.embedding,
    )
    return folder


def _layout(preset: Preset, layout: str) -> str:
    """That in which a class of transformers finds the weights."""
    if preset.family in _TILING:
        return "nested"
    return "flat" if layout == "classic" and preset.tower in _NEVER_NESTED else layout


def weight_shapes(config: PretrainedConfig) -> dict[str, torch.Size]:
    """Shape of every stored weight, by the name that transformers 5 gives it in memory; nothing is
    allocated."""
    with torch.device("meta"):
        model = _FAMILIES[config.model_type][1](config)
    shapes = {name: parameter.shape for name, parameter in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    return shapes


def build_config(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """Return the configuration of ``preset`` with the special ids of its tokenizer."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = _DECODERS[preset.decoder](**preset.text, **ids, pad_token_id=tokenizer.pad_token_id)
    config_class, model_class = _FAMILIES[preset.family]
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    tokens = (preset.vision["image_size"] // preset.vision["patch_size"]) ** 2
    vision_tokens = {"image_token_index": image_token, "image_seq_length": tokens}
    if preset.family in _TILING:
        vision_tokens = {"image_token_id": image_token}
    if preset.family == "video_llava":  # transformers reads 8 frames of a clip with their [CLS]
        vision_tokens["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
        vision_tokens["video_seq_length"] = 8 * (tokens + 1)
    config = config_class(
        vision_config=_TOWERS[preset.tower](**preset.vision),
        text_config=text,
        **vision_tokens,
        tie_word_embeddings=text.tie_word_embeddings,
        **preset.llava,
    )
    config.architectures = [model_class.__name__]
    return config


def write_processor(preset: Preset, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer, processor, image processor and chat template."""
    if preset.family in _TILING:
        side = (
            preset.vision["image_size"]
            // preset.vision["patch_size"]
            // preset.llava["scale_factor"]
        )
        save_processor(
            make_tiling_processor(tokenizer, preset.family, preset.pictures, side**2), folder
        )
        return
    if preset.family == "video_llava":
        sizes = {name: preset.vision[name] for name in ("image_size", "patch_size")}
        save_video_processor(tokenizer, folder, **sizes)
        return
    processor = make_processor(
        tokenizer,
        image_size=preset.vision["image_size"],
        patch_size=preset.vision["patch_size"],
        chat=preset.chat,
        cls_tokens=int(preset.tower != "siglip_vision_model"),
        strategy=preset.llava.get("vision_feature_select_strategy", "default"),
        pinpoints=preset.llava.get("image_grid_pinpoints"),
    )
    save_processor(processor, folder)
