"""Knows the files of HuggingFaceTB/SmolVLM2-500M-Video-Instruct: a text model and a tower that
state little but their widths, and one processor for pictures and clips."""

from collections.abc import Mapping

from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from make_checkpoint.hub import HubFamily, HubPreset, Json
from make_checkpoint.text import CORPUS, train_bpe

# What transformers' class writes where a conversation has clips; of pictures it writes what the
# first SmolVLM's does.
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}"
    "{% elif line['type'] == 'video' %}{{ '<video>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# preprocessor_config.json beside the sizes; ``video_sampling`` is how clips are read.
PICTURES: Json = {
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SmolVLMImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SmolVLMProcessor",
    "resample": 1,
    "rescale_factor": 0.00392156862745098,
}
# What config.json says at its top level, of the decoder and of the tower, beside dimensions. No
# vocabulary has the padding token that it names.
MODEL: Json = {
    "pad_token_id": 128002,
    "scale_factor": 4,
    "tie_word_embeddings": False,
    "transformers_version": "4.47.1",
    "use_cache": False,
    "use_reentrant_checkpointing": False,
}
TEXT: Json = {
    "architectures": ["VLlama3ForCausalLM"],
    "is_llama_config": True,
    "model_type": "llama",
    "neftune_noise_alpha": 0.0,
    "pad_token_id": 2,
    "pixel_shuffle_factor": 4,
    "qk_layer_norms": False,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "use_resampler": False,
}
VISION: Json = {
    "model_type": "smolvlm_vision",
    "tie_word_embeddings": False,
    "use_base_siglip": False,
}
_BASE_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_AROUND, _IMAGE, _END = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
_RESERVED = 88  # as published; a small vocabulary has fewer
_PIECES = 360  # bytes, merges and the first three special tokens, of a small vocabulary
_NAMED = {
    "end_of_utterance_token": _END,
    "fake_image_token": _AROUND,
    "global_image_token": "<global-img>",
    "image_token": _IMAGE,
}


def pictures_of(tile: int) -> Json:
    """The sizes in preprocessor_config.json, of a tower that reads tiles of so many pixels."""
    return {
        **PICTURES,
        "max_image_size": {"longest_edge": tile},
        "size": {"longest_edge": 4 * tile},
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": tile}},
    }


def _tokenizer(preset: HubPreset) -> Tokenizer:
    split = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    core = train_bpe(CORPUS, _PIECES, _BASE_TOKENS, pre_tokenizers.Sequence(split))
    names = ["<global-img>"]
    names += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    names += [_AROUND, _IMAGE]
    names += [f"<|reserved_special_token_{number}|>" for number in range(_RESERVED)]
    names += [_END]
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return core


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    vision, scale = preset.vision, preset.model["scale_factor"]
    tile = vision["image_size"]
    vocabulary = preset.text["vocab_size"]
    config = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": tokenizer.token_to_id(_IMAGE),
        "model_type": "smolvlm",
        **preset.model,
        "text_config": {**preset.text, "torch_dtype": "bfloat16"},
        "torch_dtype": dtype,
        "vision_config": {
            **vision,
            "max_image_size": {"longest_edge": tile},
            "size": {"longest_edge": 4 * tile},
        },
        "vocab_size": vocabulary,
    }
    generation = {
        "_from_model_config": True,
        "bos_token_id": tokenizer.token_to_id("<|im_start|>"),
        "eos_token_id": tokenizer.token_to_id(_END),
        "pad_token_id": tokenizer.token_to_id("<|im_end|>"),
    }
    slots = (tile // vision["patch_size"] // scale) ** 2
    return {
        "config.json": config,
        "generation_config.json": {**generation, **preset.generation},
        "preprocessor_config.json": dict(preset.pictures),
        "processor_config.json": {"image_seq_len": slots, "processor_class": "SmolVLMProcessor"},
        "chat_template.json": {"chat_template": TEMPLATE},
        "tokenizer_config.json": {
            **_NAMED,
            "additional_special_tokens": [_AROUND, _IMAGE, _END],
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": _END,
            "extra_special_tokens": dict(_NAMED),
            "model_max_length": 8192,
            "pad_token": "<|im_end|>",
            "processor_class": "SmolVLMProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "truncation_side": "left",
            "unk_token": "<|endoftext|>",
        },
    }


SMOLVLM2 = HubFamily(_tokenizer, _files, layout="nested")
