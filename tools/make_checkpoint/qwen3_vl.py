"""Knows the files of Qwen/Qwen3-VL-2B-Instruct: a nested ``config.json``, a template in Jinja, one
picture processor and no processor file."""

from collections.abc import Mapping

from tokenizers import Tokenizer

from make_checkpoint.hub import HubFamily, HubPreset, Json
from make_checkpoint.qwen_tokenizer import (
    TOOL_TOKENS,
    VISION_TOKENS,
    qwen_tokenizer,
    tokenizer_config,
)

# What the published template writes of texts and pictures. Calls of tools, which it can write too,
# are left out. No system message is added where there is none.
TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].content is string %}
        {{- messages[0].content }}
    {%- else %}
        {%- for part in messages[0].content if 'text' in part %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set image_count = namespace(value=0) %}
{%- set video_count = namespace(value=0) %}
{%- for message in messages if message.role in ('user', 'assistant') %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {%- set image_count.value = image_count.value + 1 %}
                {%- if add_vision_id %}{{- 'Picture ' ~ image_count.value ~ ': ' }}{%- endif %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {%- set video_count.value = video_count.value + 1 %}
                {%- if add_vision_id %}{{- 'Video ' ~ video_count.value ~ ': ' }}{%- endif %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# preprocessor_config.json.
PICTURES: Json = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
GENERATION: Json = {
    "do_sample": True,
    "top_p": 0.8,
    "top_k": 20,
    "temperature": 0.7,
    "repetition_penalty": 1.0,
    "transformers_version": "4.56.0",
}
# What config.json says of the decoder and of the tower beside their dimensions, and at its top
# level.
TEXT: Json = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "qwen3_vl_text",
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
    "tie_word_embeddings": True,
    "use_cache": True,
}
VISION: Json = {
    "hidden_act": "gelu_pytorch_tanh",
    "in_channels": 3,
    "initializer_range": 0.02,
    "model_type": "qwen3_vl",
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
MODEL: Json = {"transformers_version": "4.57.0.dev0"}
# 151665 to 151668, which came with Qwen3's tokenizer; decoding does not skip them.
_THOUGHTS = ("<tool_response>", "</tool_response>", "<think>", "</think>")
_PLAIN = (*TOOL_TOKENS, *_THOUGHTS)
# The marks of a picture by the key that holds their id.
_MARKS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def _tokenizer(preset: HubPreset) -> Tokenizer:
    return qwen_tokenizer((*VISION_TOKENS, *_PLAIN), _PLAIN)


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    pad, eos = (tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>"))
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        **{key: tokenizer.token_to_id(token) for key, token in _MARKS.items()},
        "model_type": "qwen3_vl",
        "text_config": {
            **preset.text,
            "bos_token_id": pad,
            "eos_token_id": eos,
            "dtype": dtype,
        },
        "tie_word_embeddings": preset.ties,
        **preset.model,
        "vision_config": dict(preset.vision),
    }
    generation = {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [eos, pad]}
    return {
        "config.json": config,
        "generation_config.json": {**generation, **preset.generation},
        "preprocessor_config.json": {**preset.pictures, "processor_class": "Qwen3VLProcessor"},
        "chat_template.jinja": TEMPLATE,
        "tokenizer_config.json": tokenizer_config(
            tokenizer, chat_template=TEMPLATE, model_max_length=262144
        ),
    }


QWEN3_VL = HubFamily(_tokenizer, _files, layout="nested")
