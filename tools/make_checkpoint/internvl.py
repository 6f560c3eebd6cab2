"""Knows the files of OpenGVLab/InternVL3-1B-hf and of its relatives with other decoders, which
transformers' own conversion wrote."""

from collections.abc import Mapping

from tokenizers import Tokenizer

from make_checkpoint.hub import HubFamily, HubPreset, Json
from make_checkpoint.qwen_tokenizer import (
    TOOL_TOKENS,
    VISION_TOKENS,
    qwen_tokenizer,
    tokenizer_config,
)
from make_checkpoint.text import begin_with

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
# preprocessor_config.json; the mean and standard deviation of ImageNet. The processor cuts all the
# same: it asks for patches at every call.
PICTURES: Json = {
    "crop_to_patches": False,
    "data_format": "channels_first",
    "default_to_square": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "image_std": [0.229, 0.224, 0.225],
    "max_patches": 12,
    "min_patches": 1,
    "processor_class": "InternVLProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 448, "width": 448},
}
# The tower of 300 million parameters, beside its dimensions.
VISION: Json = {
    "architectures": ["InternVisionModel"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "initializer_factor": 0.1,
    "initializer_range": 1e-10,
    "layer_norm_eps": 1e-06,
    "layer_scale_init_value": 0.1,
    "model_type": "internvl_vision",
    "norm_type": "layer_norm",
    "num_channels": 3,
    "projection_dropout": 0.0,
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "use_mean_pooling": True,
    "use_qk_norm": False,
}
MODEL: Json = {
    "downsample_ratio": 0.5,
    "projector_hidden_act": "gelu",
    "transformers_version": "4.52.0.dev0",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
# Ids 151665 to 151673 of the published vocabulary, then the mark of a clip.
_OWN_TOKENS = (
    *("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>"),
    *("<box>", "</box>", "<video>"),
)
# What the processor asks its tokenizer for by name.
_NAMED = {
    "context_image_token": "<IMG_CONTEXT>",
    "end_image_token": "</img>",
    "start_image_token": "<img>",
    "video_token": "<video>",
}


def _reads_from_start(preset: HubPreset) -> bool:
    """InternLM2, which the conversion makes a Llama of, puts <s> before every text."""
    return bool(preset.text["model_type"] == "llama")


def _tokenizer(preset: HubPreset) -> Tokenizer:
    if not _reads_from_start(preset):
        return qwen_tokenizer((*VISION_TOKENS, *TOOL_TOKENS, *_OWN_TOKENS), TOOL_TOKENS)
    core = qwen_tokenizer(("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *_OWN_TOKENS))
    begin_with(core, "<s>")
    return core


def _tokenizer_config(preset: HubPreset, tokenizer: Tokenizer) -> Json:
    stated: Json = {
        **_NAMED,
        "extra_special_tokens": dict(_NAMED),
        "model_max_length": 8192,
        "processor_class": "InternVLProcessor",
        "return_token_type_ids": False,
    }
    if _reads_from_start(preset):
        stated |= {
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>", *_OWN_TOKENS],
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "</s>",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        }
    return tokenizer_config(tokenizer, **stated)


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    begin = "<s>" if _reads_from_start(preset) else "<|endoftext|>"
    bos, end_of_turn = (tokenizer.token_to_id(token) for token in (begin, "<|im_end|>"))
    eos = tokenizer.token_to_id("</s>") if _reads_from_start(preset) else end_of_turn
    height, width = preset.vision["image_size"]
    rows, columns = preset.vision["patch_size"]
    tokens = int(height // rows * (width // columns) * preset.model["downsample_ratio"] ** 2)
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "image_seq_length": tokens,
        "image_token_id": tokenizer.token_to_id("<IMG_CONTEXT>"),
        "model_type": "internvl",
        **preset.model,
        "text_config": {
            "bos_token_id": bos,
            "eos_token_id": eos,
            "torch_dtype": dtype,
            **preset.text,
        },
        "torch_dtype": dtype,
        "vision_config": {**preset.vision, "torch_dtype": dtype},
    }
    generation = {"_from_model_config": True, "bos_token_id": bos, "eos_token_id": end_of_turn}
    processor = {"image_seq_length": tokens, "processor_class": "InternVLProcessor"}
    return {
        "config.json": config,
        "generation_config.json": {**generation, **preset.generation},
        "preprocessor_config.json": dict(preset.pictures),
        "processor_config.json": processor,
        "chat_template.jinja": TEMPLATE,
        "tokenizer_config.json": _tokenizer_config(preset, tokenizer),
    }


INTERNVL = HubFamily(_tokenizer, _files, layout="flat")
