"""Knows the files of google/paligemma2-3b-pt-224 and of its predecessor: a nested ``config.json``,
no chat template, and a tokenizer with tokens for places in a picture."""

from collections.abc import Mapping

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from make_checkpoint.hub import HubFamily, HubPreset, Json, added_tokens
from make_checkpoint.text import CORPUS, begin_with

# preprocessor_config.json, beside the size and the tokens of a picture.
PICTURES: Json = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "PaliGemmaProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
VISION: Json = {"model_type": "siglip_vision_model", "vision_use_head": False}
# What the decoder of each generation states beside its dimensions.
GEMMA: Json = {"model_type": "gemma"}
GEMMA2: Json = {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "model_type": "gemma2",
}
# The first ids of the published vocabulary, in this order; what follows are runs of line breaks,
# then the bytes.
_FIRST = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"),
    *("<start_of_turn>", "<end_of_turn>"),
)
_BREAKS = tuple("\n" * count for count in range(1, 9))
_BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
_PIECES = 448  # ids up to the end of what is learnt, 256,000 of the published one
# Behind them: places and outlines, which are text to a decoder of text, and the picture's own.
_PLACES = (
    *(f"<loc{number:04}>" for number in range(1024)),
    *(f"<seg{number:03}>" for number in range(128)),
)
_IMAGE = "<image>"
VOCABULARY = 1664  # rows of the embedding: ids, filled up to a multiple of 64 as published


def _tokenizer(preset: HubPreset) -> Tokenizer:
    """Learn a BPE of characters whose rest are bytes, in SentencePiece's form."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "\u2581")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_PIECES, special_tokens=[*_FIRST, *_BREAKS, *_BYTES], show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _FIRST])
    core.add_tokens([AddedToken(token, normalized=False) for token in _BREAKS])
    core.add_tokens([AddedToken(token, normalized=True) for token in _PLACES])
    core.add_special_tokens([AddedToken(_IMAGE, special=True, normalized=False)])
    begin_with(core, "<bos>")
    return core


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    ids = {f"{name}_token_id": tokenizer.token_to_id(f"<{name}>") for name in ("bos", "eos", "pad")}
    tokens = (preset.vision["image_size"] // preset.vision["patch_size"]) ** 2
    projection, edge = preset.text["hidden_size"], preset.vision["image_size"]
    config = {
        "_vocab_size": tokenizer.token_to_id(_IMAGE),
        "architectures": ["PaliGemmaForConditionalGeneration"],
        **ids,
        "hidden_size": projection,
        "image_token_index": tokenizer.token_to_id(_IMAGE),
        "model_type": "paligemma",
        **preset.model,
        "projection_dim": projection,
        "text_config": {**preset.text, "num_image_tokens": tokens, "torch_dtype": dtype},
        "torch_dtype": dtype,
        "vision_config": {
            **preset.vision,
            "num_image_tokens": tokens,
            "projection_dim": projection,
            "torch_dtype": dtype,
        },
    }
    return {
        "config.json": config,
        "generation_config.json": {"_from_model_config": True, **ids, **preset.generation},
        "preprocessor_config.json": {
            **preset.pictures,
            "image_seq_length": tokens,
            "size": {"height": edge, "width": edge},
        },
        "special_tokens_map.json": {
            "additional_special_tokens": [_IMAGE],
            **{name.removesuffix("_id"): f"<{name[:3]}>" for name in ids},
            "unk_token": "<unk>",
        },
        "tokenizer_config.json": _tokenizer_config(tokenizer),
    }


def _tokenizer_config(tokenizer: Tokenizer) -> Json:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": added_tokens(tokenizer),
        "additional_special_tokens": [_IMAGE],
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "processor_class": "PaliGemmaProcessor",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


PALIGEMMA = HubFamily(_tokenizer, _files, layout="classic")
