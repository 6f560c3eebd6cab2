"""Knows how a tokenizer becomes the vocabulary of a GGUF file.

PocketVLM's runtime feeds token ids and never lets llama.cpp tokenize. This vocabulary is for
llama.cpp's other clients, and keeps token ids and rows of the embedding in step.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from pocketvlm.errors import CheckpointError
from pocketvlm_export.gguf.pre_tokenizers import pre_tokenizer_name

_SPACE = "\u2581"  # SentencePiece's visible space
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in llama.cpp's terms.

    Attributes:
        model: ``gpt2`` for byte-level BPE, ``llama`` for SentencePiece's BPE with byte fallback.
        pre: how text is split before merging, by llama.cpp's name.
        tokens, types: of every id, one for each row of the embedding.
        scores: which pairs ``llama`` merges first, the highest; None for ``gpt2``, which has
            merges.
        space_prefix: whether ``llama`` puts a space before the text.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[gguf.TokenType]
    scores: list[float] | None = None
    space_prefix: bool | None = None


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read ``tokenizer.json`` of ``folder``, to be used with an embedding of ``size`` rows.

    Raises:
        PocketVLMError: it is of a kind that llama.cpp has no name for.
    """
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise CheckpointError(
            f"the tokenizer is of kind {model.get('type')}",
            expected="BPE, which can be written as GGUF",
            advice="export it with --decoder onnx",
            setting="decoder",
        )
    pieces = bool(model.get("byte_fallback")) and not _uses(tokenizer, "ByteLevel")
    tokens, types = _tokens(tokenizer, size, pieces=pieces)
    if not pieces:
        return Vocabulary("gpt2", pre_tokenizer_name(tokenizer), tokens, types)
    return Vocabulary(
        "llama", "default", tokens, types, _scores(model, tokens), _has_space_prefix(tokenizer)
    )


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, folder: Path, eos: int) -> None:
    """Write it, with the special tokens and the chat template of the tokenizer's files in
    ``folder``.

    ``eos`` is the id that ends an answer, for tokenizers that name none.
    """
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    special = gguf.SpecialVocab(
        folder, load_merges=vocabulary.model == "gpt2", n_vocab=len(vocabulary.tokens)
    )
    special.special_token_ids.setdefault("eos", eos)
    special.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    special.add_to_gguf(writer, quiet=True)


def _tokens(
    tokenizer: Mapping[str, Any], size: int, *, pieces: bool
) -> tuple[list[str], list[gguf.TokenType]]:
    """Text and type of each id; ids that the tokenizer does not fill are padding, ids without a row
    are left out."""
    tokens = [f"[PAD{i}]" for i in range(size)]
    types = [gguf.TokenType.UNUSED] * size
    for text, i in tokenizer["model"]["vocab"].items():
        if i >= size:
            continue
        tokens[i] = text
        types[i] = (
            gguf.TokenType.BYTE if pieces and _BYTE.fullmatch(text) else gguf.TokenType.NORMAL
        )
    for added in tokenizer.get("added_tokens", []):
        i, text = added["id"], added["content"]
        if i >= size:
            continue
        # Some checkpoints forget to call theirs special.
        control = added["special"] or (text.startswith("<|") and text.endswith("|>"))
        types[i] = gguf.TokenType.CONTROL if control else gguf.TokenType.USER_DEFINED
        tokens[i] = text if control else text.replace(_SPACE, " ")
    return tokens, types


def _scores(model: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """Scores that rank pieces as the merges do: SentencePiece merges first what has the highest
    score."""
    merged: dict[str, int] = {}
    for merge in model["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        merged.setdefault("".join(pair), len(merged))
    return [-float(merged.get(token, len(merged))) for token in tokens]


def _has_space_prefix(tokenizer: Mapping[str, Any]) -> bool:
    prepends = any(step.get("prepend") == _SPACE for step in _steps(tokenizer, "normalizer"))
    schemes = [
        step.get("prepend_scheme")
        for step in _steps(tokenizer, "pre_tokenizer")
        if step["type"] == "Metaspace"
    ]
    return prepends or any(scheme != "never" for scheme in schemes)


def _uses(tokenizer: Mapping[str, Any], kind: str) -> bool:
    return any(step["type"] == kind for step in _steps(tokenizer, "pre_tokenizer"))


def _steps(tokenizer: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, whether it is a sequence, one alone or none."""
    step = tokenizer.get(part)
    if step is None:
        return []
    if step["type"] == "Sequence":
        steps: list[Mapping[str, Any]] = step.get("normalizers") or step.get("pretokenizers") or []
        return steps
    return [step]
