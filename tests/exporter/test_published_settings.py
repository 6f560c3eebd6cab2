"""What README says is supported, with the settings of published checkpoints beside the dimensions
of tiny ones: a plan without a warning, and pixels as transformers makes them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from pocketvlm.layouts import make_layout
from pocketvlm_export import ExportOptions
from pocketvlm_export.checkpoint import image_processor
from pocketvlm_export.pipeline import prepare
from pocketvlm_export.quiet import quiet_transformers

_CLIP = {
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
_LLAVA = {
    "ignore_index": -100,
    "pad_token_id": 3,
    "projector_hidden_act": "gelu",
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 512,
}
_SMOL_TEXT = {
    "_flash_attn_2_enabled": True,
    "_name_or_path": "None",
    "architectures": ["VLlama3ForCausalLM"],
    "is_llama_config": True,
    "neftune_noise_alpha": 0.0,
    "perceiver_config": {"_attn_implementation_autoset": False, "resampler_depth": 6},
    "pixel_shuffle_factor": 2,
    "qk_layer_norms": False,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}},
    "use_cache": False,
    "use_resampler": False,
}
_SMOL = {
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "transformers.js_config": {"dtype": "auto", "use_external_data_format": {}},
    "use_cache": False,
}
_IDEFICS3_PICTURES = {
    "do_convert_rgb": True,
    "do_image_splitting": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Idefics3Processor",
    "resample": 1,
    "rescale_factor": 0.00392156862745098,
}
# By checkpoint: the tiny one, then what its files state beside dimensions and ids: config.json at
# the top, of its text and of its tower, and preprocessor_config.json.
PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": (
        "tiny-llama",
        _LLAVA,
        {"_name_or_path": "lmsys/vicuna-7b-v1.5", "rms_norm_eps": 1e-05},
        {"vocab_size": 32000},
        {
            **_CLIP,
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
        },
    ),
    "llava-hf/llava-v1.6-mistral-7b-hf": (
        "tiny-llava-next",
        {**_LLAVA, "use_image_newline_parameter": True, "tie_word_embeddings": False},
        {"rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None},
        {"vocab_size": 32000},
        {
            **_CLIP,
            "aspect_ratio_setting": "anyres",
            "do_pad": True,
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
        },
    ),
    "a fine-tune of llava-hf/llava-onevision-qwen2-0.5b-ov-hf, saved by transformers 4.5x": (
        "tiny-llava-onevision",
        {"dtype": "float16", "quantization_config": None},
        {"layer_types": ["full_attention"] * 3, "sliding_window": None},
        {"attention_dropout": 0.0},
        {
            "crop_size": None,
            "data_format": "channels_first",
            "default_to_square": False,
            "device": None,
            "disable_grouping": None,
            "do_center_crop": None,
            "image_processor_type": "LlavaOnevisionImageProcessorFast",
            "input_data_format": None,
            "return_tensors": None,
        },
    ),
    "LanguageBind/Video-LLaVA-7B-hf": (
        "tiny-video-llava",
        _LLAVA,
        {"rms_norm_eps": 1e-05},
        {"vocab_size": 32000},
        {
            **_CLIP,
            "image_processor_type": "VideoLlavaImageProcessor",
            "processor_class": "VideoLlavaProcessor",
        },
    ),
    "HuggingFaceTB/SmolVLM-256M-Instruct": (
        "tiny-idefics3",
        _SMOL,
        _SMOL_TEXT,
        {
            "max_image_size": {"longest_edge": 84},
            "size": {"longest_edge": 168},
            "tie_word_embeddings": False,
            "use_base_siglip": False,
        },
        {**_IDEFICS3_PICTURES, "image_processor_type": "Idefics3ImageProcessor"},
    ),
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": (
        "tiny-smolvlm",
        {**_SMOL, "use_reentrant_checkpointing": False},
        _SMOL_TEXT,
        {"use_base_siglip": False},
        {
            **_IDEFICS3_PICTURES,
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 84}},
        },
    ),
    "a fine-tune of Qwen/Qwen2.5-VL-3B-Instruct, saved by transformers 4.5x": (
        "tiny-qwen2.5-vl",
        {"dtype": "bfloat16", "quantization_config": None},
        {},
        {"model_type": "qwen2_5_vl", "initializer_range": 0.02},
        {
            "crop_size": None,
            "data_format": "channels_first",
            "default_to_square": True,
            "device": None,
            "do_center_crop": None,
            "do_convert_rgb": True,
            "do_normalize": True,
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "input_data_format": None,
            "resample": 3,
            "return_tensors": None,
            "size": {"longest_edge": 12845056, "shortest_edge": 3136},
        },
    ),
    "google/paligemma2-3b-pt-224": (
        "tiny-paligemma",
        {"num_hidden_layers": 26, "tie_word_embeddings": True},
        {"cache_implementation": "hybrid", "eos_token_id": [1, 107], "use_cache": True},
        {"num_positions": 36, "projector_hidden_act": "gelu_fast"},
        {"do_convert_rgb": None, "image_processor_type": "SiglipImageProcessorFast"},
    ),
    "a fine-tune of google/paligemma-3b-pt-224, saved by transformers 4.5x": (
        "tiny-paligemma-gemma",
        {"dtype": "float32", "ignore_index": -100, "quantization_config": None},
        {"hidden_act": "gelu", "hidden_activation": None, "rope_theta": 10000.0},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06},
        {"crop_size": None, "do_center_crop": None, "data_format": "channels_first"},
    ),
    "a fine-tune of Qwen/Qwen3-VL-2B-Instruct, saved by transformers 4.57": (
        "tiny-qwen3-vl",
        {"dtype": "bfloat16", "transformers_version": "4.57.1"},
        {"dtype": "bfloat16", "pad_token_id": None},
        {"dtype": "bfloat16", "model_type": "qwen3_vl"},
        {
            "crop_size": None,
            "data_format": "channels_first",
            "default_to_square": True,
            "device": None,
            "disable_grouping": None,
            "do_center_crop": None,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_pad": None,
            "do_rescale": True,
            "do_resize": True,
            "max_pixels": None,
            "min_pixels": None,
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "return_tensors": None,
        },
    ),
    "a fine-tune of google/gemma-3-4b-it, saved by transformers 4.5x": (
        "tiny-gemma3",
        {"bos_token_id": 2, "dtype": "bfloat16", "pad_token_id": 0, "quantization_config": None},
        {
            "_sliding_window_pattern": 6,
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "cache_implementation": "hybrid",
            "final_logit_softcapping": None,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_local_base_freq": 10000.0,
            "rope_theta": 1000000.0,
            "use_bidirectional_attention": False,
            "use_cache": True,
        },
        {"attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-06},
        {
            "crop_size": None,
            "default_to_square": False,
            "do_center_crop": None,
            "do_convert_rgb": None,
            "image_processor_type": "Gemma3ImageProcessorFast",
            "pan_and_scan_max_num_crops": 4,
        },
    ),
    "LiquidAI/LFM2-VL-450M": (
        "tiny-lfm2-vl",
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "theta": 1000000.0},
        {"dtype": "bfloat16"},
        {"return_row_col_info": True, "disable_grouping": None},
    ),
    "LiquidAI/LFM2-VL-450M, its pictures not cut": (
        "tiny-lfm2-vl",
        {"dtype": "bfloat16", "do_image_splitting": False},
        {"dtype": "bfloat16", "theta": 1000000.0},
        {"dtype": "bfloat16"},
        {"do_image_splitting": False, "return_row_col_info": True, "disable_grouping": None},
    ),
    "a fine-tune of OpenGVLab/InternVL3-1B-hf, its switches null": (
        "tiny-internvl",
        {"quantization_config": None},
        {},
        {},
        {"do_center_crop": None, "crop_size": None, "device": None, "disable_grouping": None},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_are_planned_and_followed(make_tiny, tmp_path, name):
    preset, top, text, vision, pictures = PUBLISHED[name]
    folder = shutil.copytree(make_tiny(preset), tmp_path / "published")
    stated = json.loads((folder / "config.json").read_text())
    parts = {"vision_config": {**stated["vision_config"], **vision}}
    if "text_config" in stated:
        parts["text_config"] = {**stated["text_config"], **text}
    (folder / "config.json").write_text(json.dumps({**stated, **top, **parts}))
    own = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**own, **pictures}))
    processor = folder / "processor_config.json"
    if processor.is_file():  # which published files do not nest
        kept = json.loads(processor.read_text())
        kept.pop("image_processor", None)
        processor.write_text(json.dumps(kept))
    plan = prepare(str(folder), tmp_path / "out", ExportOptions())
    assert plan.warnings == ()
    family, layout = plan.spec.family, plan.layout
    config = family.image_processor_config(
        image_processor(folder, family.medium), plan.spec, layout
    )
    runtime = make_layout(plan.spec.layout_config(layout.stated), config)
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (70, 50, 3), dtype=np.uint8))
    images = [image] * (8 if runtime.medium == "video" else 1)
    with quiet_transformers():
        made = AutoImageProcessor.from_pretrained(folder, backend="pil")
    if family.model_type == "internvl":  # whose processor asks to cut when it calls it
        made.crop_to_patches, made.max_patches = True, layout.stated["max_tiles"]
    theirs = family.reference_pixels(made, images, layout)
    ours = runtime.cut(images if runtime.medium == "video" else image).pixel_values
    assert np.abs(ours - theirs.reshape(ours.shape)).max() < 1e-5
