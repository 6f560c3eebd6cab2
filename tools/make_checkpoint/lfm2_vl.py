"""Knows the files of LiquidAI/LFM2-VL-450M: a nested ``config.json``, settings of pictures and of
the processor apart, tokens of pictures in front of the vocabulary."""

from collections.abc import Mapping

from tokenizers import Regex, Tokenizer, pre_tokenizers

from make_checkpoint.hub import HubFamily, HubPreset, Json, added_tokens
from make_checkpoint.text import CORPUS, train_bpe

TEMPLATE = (
    "{{bos_token}}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
# preprocessor_config.json
PICTURES: Json = {
    "data_format": "channels_first",
    "do_image_splitting": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "downsample_factor": 2,
    "encoder_patch_size": 16,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "max_image_tokens": 256,
    "max_num_patches": 1024,
    "max_pixels_tolerance": 2.0,
    "max_tiles": 10,
    "min_image_tokens": 64,
    "min_tiles": 2,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 512, "width": 512},
    "tile_size": 512,
    "use_thumbnail": True,
}
# The tower of 86 million parameters.
VISION: Json = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-06,
    "model_type": "siglip2_vision_model",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "num_patches": 256,
    "patch_size": 16,
    "vision_use_head": False,
}
# What config.json says of the decoder beside its dimensions, and at its top level.
TEXT: Json = {
    "architectures": ["Lfm2ForCausalLM"],
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_mlp_init_scale": 1.0,
    "block_norm_eps": 1e-05,
    "block_out_init_scale": 1.0,
    "block_use_swiglu": True,
    "block_use_xavier_init": True,
    "bos_token_id": 1,
    "conv_L_cache": 3,
    "conv_bias": False,
    "conv_use_xavier_init": True,
    "eos_token_id": 7,
    "initializer_range": 0.02,
    "model_type": "lfm2",
    "norm_eps": 1e-05,
    "pad_token_id": 0,
    "rope_theta": 1000000.0,
    "use_cache": True,
    "use_pos_enc": True,
}
LAYER_TYPES = ["full_attention" if n in (2, 5, 8, 10, 12, 14) else "conv" for n in range(16)]
MODEL: Json = {
    "do_image_splitting": True,
    "downsample_factor": 2,
    "encoder_patch_size": 16,
    "max_image_tokens": 256,
    "max_num_patches": 1024,
    "max_pixels_tolerance": 2.0,
    "max_tiles": 10,
    "min_image_tokens": 64,
    "min_tiles": 2,
    "projector_bias": True,
    "projector_hidden_act": "gelu",
    "projector_hidden_size": 2560,
    "tile_size": 512,
    "use_image_special_tokens": True,
    "use_thumbnail": True,
    "vision_feature_layer": -1,
}
GENERATION: Json = {"_from_model_config": True}
# Ids 0 to 7 of the published vocabulary, then those of pictures, 396 to 499.
_FIRST = (
    *("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|fim_pre|>"),
    *("<|fim_mid|>", "<|fim_suf|>", "<|im_start|>", "<|im_end|>"),
)
_NUMBERS = range(1, 11)
_PICTURES = (
    "<image>",
    *(f"<|img_row_{row}_col_{column}|>" for row in _NUMBERS for column in _NUMBERS),
    *("<|img_thumbnail|>", "<|image_start|>", "<|image_end|>"),
)
_PIECES = 380  # bytes and merges, and the first special tokens
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What the processor asks its tokenizer for by name.
_NAMED = {
    "image_end_token": "<|image_end|>",
    "image_start_token": "<|image_start|>",
    "image_thumbnail": "<|img_thumbnail|>",
    "image_token": "<image>",
}


def widths(hidden: int, feed_forward: int, multiple: int) -> Json:
    """The decoder's widths, by each of the names that ``config.json`` has for them."""
    return {
        "block_dim": hidden,
        "block_ff_dim": feed_forward,
        "block_multiple_of": multiple,
        "conv_dim": hidden,
        "conv_dim_out": hidden,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
    }


def _tokenizer(preset: HubPreset) -> Tokenizer:
    split = [
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    core = train_bpe(CORPUS, _PIECES, list(_FIRST), pre_tokenizers.Sequence(split))
    core.add_special_tokens(list(_PICTURES))
    return core


def _tokenizer_config(tokenizer: Tokenizer) -> Json:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": added_tokens(tokenizer),
        "bos_token": "<|startoftext|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "extra_special_tokens": dict(_NAMED),
        **_NAMED,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<|pad|>",
        "processor_class": "Lfm2VlProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "use_default_system_prompt": False,
    }


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    ids = {"bos_token_id": 1, "eos_token_id": 7, "pad_token_id": 0}
    config = {
        "architectures": ["Lfm2VlForConditionalGeneration"],
        **preset.model,
        "image_token_id": tokenizer.token_to_id("<image>"),
        "model_type": "lfm2_vl",
        "text_config": {**preset.text, "torch_dtype": dtype},
        "torch_dtype": dtype,
        "transformers_version": "4.56.0",
        "vision_config": {**preset.vision, "torch_dtype": dtype},
    }
    return {
        "config.json": config,
        "generation_config.json": {**ids, **preset.generation},
        "preprocessor_config.json": {**preset.pictures, "processor_class": "Lfm2VlProcessor"},
        "processor_config.json": {
            "processor_class": "Lfm2VlProcessor",
            "use_image_special_tokens": True,
        },
        "chat_template.jinja": TEMPLATE,
        "tokenizer_config.json": _tokenizer_config(tokenizer),
    }


LFM2_VL = HubFamily(_tokenizer, _files, layout="lfm2-vl")
