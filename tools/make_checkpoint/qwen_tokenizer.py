"""Knows Qwen's tokenizer in small: its pre-tokenizer and normalizer, and its special tokens behind
the vocabulary, as published."""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from make_checkpoint.hub import added_tokens
from make_checkpoint.text import CORPUS, train_bpe

# How Qwen2 and all after it split a text into words before they merge bytes.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PIECES = 387  # bytes and merges; what follows are special tokens
# Ids 151643 to 151656 of the published vocabulary, in this order.
VISION_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# 151657 to 151664: tokens of their own that decoding does not skip.
TOOL_TOKENS = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)


def qwen_tokenizer(special: Sequence[str], plain: Sequence[str] = ()) -> Tokenizer:
    """Learn a byte-level BPE and put ``special`` behind it; ``plain`` names those of them that are
    not special to a decoder of text."""
    split = [
        pre_tokenizers.Split(Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    core = train_bpe(CORPUS, _PIECES, [], pre_tokenizers.Sequence(split))
    core.normalizer = normalizers.NFC()
    core.add_tokens(
        [AddedToken(token, special=token not in plain, normalized=False) for token in special]
    )
    return core


def tokenizer_config(tokenizer: Tokenizer, **stated: Any) -> dict[str, Any]:
    """``tokenizer_config.json`` in the keys of transformers 4, which published it."""
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added_tokens(tokenizer),
        "additional_special_tokens": list(VISION_TOKENS[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        **stated,
    }
