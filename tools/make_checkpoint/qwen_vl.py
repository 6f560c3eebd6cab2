"""Knows the files of Qwen/Qwen2-VL-2B-Instruct and Qwen/Qwen2.5-VL-3B-Instruct: a flat
``config.json``, a template in JSON, one picture processor and no processor file."""

from collections.abc import Mapping

from tokenizers import Tokenizer

from make_checkpoint.hub import HubFamily, HubPreset, Json
from make_checkpoint.qwen_tokenizer import (
    TOOL_TOKENS,
    VISION_TOKENS,
    qwen_tokenizer,
    tokenizer_config,
)

# Both checkpoints have it in chat_template.json and in tokenizer_config.json.
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# preprocessor_config.json; the mean and standard deviation of CLIP.
PICTURES: Json = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
# What config.json says of the decoder beside its dimensions, and at its top level.
TEXT: Json = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_cache": True,
    "use_sliding_window": False,
}
MODEL: Json = {"transformers_version": "4.41.2"}
# The marks of a picture by the key that holds their id.
_MARKS = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_token_id": "<|vision_pad|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
_CLASSES = {
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
}
# What came with Qwen2.5's tokenizer.
_PLAIN_TOKENS: Mapping[str, tuple[str, ...]] = {"qwen2_vl": (), "qwen2_5_vl": TOOL_TOKENS}


def _tokenizer(preset: HubPreset) -> Tokenizer:
    plain = _PLAIN_TOKENS[preset.family]
    return qwen_tokenizer((*VISION_TOKENS, *plain), plain)


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    model_class, processor_class = _CLASSES[preset.family]
    pad, eos = (tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>"))
    config = {
        "architectures": [model_class],
        "bos_token_id": pad,
        "eos_token_id": eos,
        **{key: tokenizer.token_to_id(token) for key, token in _MARKS.items()},
        "model_type": preset.family,
        **preset.text,
        "tie_word_embeddings": preset.ties,
        "torch_dtype": dtype,
        **preset.model,
        "vision_config": dict(preset.vision),
    }
    generation = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [eos, pad]}
    return {
        "config.json": config,
        "generation_config.json": {**generation, **preset.generation},
        "preprocessor_config.json": {**preset.pictures, "processor_class": processor_class},
        "chat_template.json": {"chat_template": TEMPLATE},
        "tokenizer_config.json": tokenizer_config(tokenizer, chat_template=TEMPLATE),
    }


QWEN_VL = HubFamily(_tokenizer, _files, layout="qwen-vl")
