"""Knows what transformers gets of a checkpoint's small files: settings that are allowed by name, in
a folder of their own or as arguments, and the checked tokenizer.json. Whatever else a file states,
or lies beside it, transformers never sees.

| file | allowed |
|---|---|
| config.json | what the class of its model type declares, at any depth |
| generation_config.json | what transformers' class of such settings declares |
| preprocessor_config.json and the like | the class's name, and what that class declares |
| tokenizer_config.json, special_tokens_map.json | tokens, and the settings listed here |
| added_tokens.json | tokens and their ids |
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.settings import brief

CONFIG, TOKENIZER, PICTURES = "config.json", "tokenizer_config.json", "preprocessor_config.json"
_TOKENIZER_DATA = "tokenizer.json"
_TOKENS_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_OF_TOKENIZER = frozenset(
    {
        *("tokenizer_class", "added_tokens_decoder", "model_max_length", "model_input_names"),
        *("padding_side", "truncation_side", "split_special_tokens", "add_prefix_space"),
        *("add_bos_token", "add_eos_token", "legacy", "use_default_system_prompt", "errors"),
        *("clean_up_tokenization_spaces", "spaces_between_special_tokens", "trim_offsets"),
        *("do_lower_case", "strip_accents", "tokenize_chinese_chars"),
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    }
)
_TOKEN, _TOKENS = "_token", "_special_tokens"  # how the names of tokens end, and of several
_PICTURE_CLASS = ("image_processor_type", "feature_extractor_type")


def model_config(file: Path, stated: Mapping[str, Any], parts: frozenset[str]) -> PretrainedConfig:
    """Return the configuration that transformers makes of what is allowed of a config.json.

    Args:
        file: its name, for messages.
        stated: what it holds, of a model type that transformers knows.
        parts: the model types that its towers and language models may be of.

    Raises:
        CheckpointError: a part is of another type.
    """
    kind = upstream.config_class(stated["model_type"])
    return kind(**_allowed(kind, stated, parts, file, ""))


def _allowed(
    kind: type[PretrainedConfig],
    stated: Mapping[str, Any],
    parts: frozenset[str],
    file: Path,
    path: str,
) -> dict[str, Any]:
    """What a class declares of the settings ``stated``, at any depth; ``path`` leads to them."""
    names = upstream.declared_settings(kind)
    made = {}
    for key, (default, fixed) in upstream.parts_of(kind).items():
        part = stated.get(key)
        if part is None and fixed is not None:
            # Older files of Qwen2-VL state the language model's settings beside the rest.
            names |= upstream.declared_settings(fixed)
        if not isinstance(part, Mapping):
            continue
        model_type = part.get("model_type", default)
        if fixed is None and model_type not in parts:
            raise CheckpointError(
                f"{file} has {path}{key}.model_type {brief(model_type)}, which is not supported",
                expected=f"one of {', '.join(sorted(parts))}",
            )
        chosen = upstream.config_class(model_type) if fixed is None else fixed
        made[key] = _allowed(chosen, part, parts, file, f"{path}{key}.")
    return {**{key: each for key, each in stated.items() if key in names}, **made}


def generation(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is allowed of a generation_config.json."""
    names = upstream.generation_names()
    return {key: each for key, each in stated.items() if key in names}


def picture_settings(kind: Any, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is allowed of an image processor's settings for transformers' class ``kind``."""
    names = upstream.picture_settings(kind)
    return {key: each for key, each in stated.items() if key in names}


@contextmanager
def tokenizer_folder(folder: Path) -> Iterator[Path]:
    """Give a folder with the tokenizer in ``folder``, its settings those that are allowed, for the
    time of the block. Raises `CheckpointError` for files that cannot be read."""
    settings, tokens, added = (
        read_json(folder / name) for name in (TOKENIZER, _TOKENS_MAP, _ADDED)
    )
    files = {
        CONFIG: _named(folder, "tokenizer_class"),
        TOKENIZER: {
            key: each for key, each in settings.items() if key in _OF_TOKENIZER or _of_tokens(key)
        },
        _TOKENS_MAP: {key: each for key, each in tokens.items() if _of_tokens(key)},
        _ADDED: added,
    }
    with _holding({name: each for name, each in files.items() if each}) as own:
        if (folder / _TOKENIZER_DATA).is_file():
            shutil.copyfile(folder / _TOKENIZER_DATA, own / _TOKENIZER_DATA)
        yield own


@contextmanager
def picture_class_folder(folder: Path, stated: Mapping[str, Any]) -> Iterator[Path]:
    """Give a folder that names the class of an image processor, whose settings are ``stated``, as
    ``folder`` does, and nothing else, for the time of the block."""
    named = {key: stated[key] for key in _PICTURE_CLASS if stated.get(key) is not None}
    with _holding({CONFIG: _named(folder, *_PICTURE_CLASS), PICTURES: named}) as own:
        yield own


def _of_tokens(key: str) -> bool:
    return key.endswith((_TOKEN, _TOKENS))


def _named(folder: Path, *classes: str) -> dict[str, Any]:
    """Of config.json the type of its model, and the names of classes."""
    stated = read_json(folder / CONFIG)
    return {key: stated[key] for key in ("model_type", *classes) if stated.get(key) is not None}


@contextmanager
def _holding(files: Mapping[str, Mapping[str, Any]]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pocketvlm-") as name:
        for file, content in files.items():
            (Path(name) / file).write_text(json.dumps(content), encoding="utf-8")
        yield Path(name)
