"""Knows the files of llava-hf/llava-onevision-qwen2-0.5b-ov-hf: a template that puts pictures
first, and 36 grids."""

from collections.abc import Mapping

from tokenizers import Tokenizer

from make_checkpoint.hub import HubFamily, HubPreset, Json
from make_checkpoint.qwen_tokenizer import qwen_tokenizer, tokenizer_config

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\\n' + content['text'] }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# preprocessor_config.json, without its grids.
PICTURES: Json = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "LlavaOnevisionProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
VISION: Json = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-06,
    "model_type": "siglip_vision_model",
    "num_channels": 3,
    "vision_use_head": False,
}
TEXT: Json = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
}
MODEL: Json = {
    "multimodal_projector_bias": True,
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": False,
    "transformers_version": "4.45.0.dev0",
    "use_image_newline_parameter": True,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
# Ids 151643 to 151647 of the published vocabulary.
_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
_GRID = 6  # rows and columns of parts, at most


def _tokenizer(preset: HubPreset) -> Tokenizer:
    return qwen_tokenizer(_TOKENS)


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    bos, eos = (tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>"))
    edge = preset.vision["image_size"]
    edges = range(edge, (_GRID + 1) * edge, edge)
    pinpoints = [[height, width] for height in edges for width in edges]
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "image_grid_pinpoints": pinpoints,
        "image_token_index": tokenizer.token_to_id("<image>"),
        "model_type": "llava_onevision",
        **preset.model,
        "text_config": {"bos_token_id": bos, "eos_token_id": eos, **preset.text},
        "torch_dtype": dtype,
        "video_token_index": tokenizer.token_to_id("<video>"),
        "vision_config": dict(preset.vision),
    }
    return {
        "config.json": config,
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": bos,
            "eos_token_id": eos,
            **preset.generation,
        },
        "preprocessor_config.json": {
            **preset.pictures,
            "image_grid_pinpoints": pinpoints,
            "size": {"height": edge, "width": edge},
        },
        "processor_config.json": {
            "image_token": "<image>",
            "num_image_tokens": (edge // preset.vision["patch_size"]) ** 2,
            "processor_class": "LlavaOnevisionProcessor",
            "video_token": "<video>",
            "vision_feature_select_strategy": "full",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
        "tokenizer_config.json": tokenizer_config(
            tokenizer,
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
            processor_class="LlavaOnevisionProcessor",
        ),
    }


LLAVA_ONEVISION = HubFamily(_tokenizer, _files, layout="classic")
