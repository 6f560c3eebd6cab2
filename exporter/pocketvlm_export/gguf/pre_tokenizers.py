"""Knows llama.cpp's names for the ways in which byte-level BPE tokenizers split text before
merging."""

from collections.abc import Iterator, Mapping
from typing import Any

_LETTERS = (  # %s: how many digits go together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What happens to text before merging, in the words of `_describe` -> llama.cpp's name. A tokenizer
# of another kind is written as the last resort: llama.cpp splits its text much like GPT-2's, so
# that other clients may get other tokens.
_NAMES: Mapping[tuple[str, ...], str] = {
    ("ByteLevel regex",): "gpt-2",
    (f"Split {_LETTERS % '{1,3}'}", "ByteLevel"): "llama-bpe",
    (f"Split {_LETTERS % ''}", "ByteLevel"): "qwen2",
    (f"Split {_TEKKEN}", "ByteLevel"): "tekken",
    ("Digits individual", "ByteLevel regex"): "smollm",
}
LAST_RESORT = "default"


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the pre-tokenizer of a ``tokenizer.json``."""
    return _NAMES.get(tuple(_describe(tokenizer.get("pre_tokenizer") or {})), LAST_RESORT)


def _describe(step: Mapping[str, Any]) -> Iterator[str]:
    kind = step.get("type", "nothing")
    if kind == "Sequence":
        for part in step["pretokenizers"]:
            yield from _describe(part)
    elif kind == "Split":
        yield f"Split {step['pattern'].get('Regex')}"
    elif kind == "Digits":
        yield f"Digits{' individual' if step['individual_digits'] else ''}"
    elif kind == "ByteLevel":
        prefix, regex = step["add_prefix_space"], step.get("use_regex", True)
        yield f"ByteLevel{' prefix' if prefix else ''}{' regex' if regex else ''}"
    else:
        yield kind
