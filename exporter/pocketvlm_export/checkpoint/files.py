"""Knows how the small files of a checkpoint are read; what they hold is untrusted."""

import codecs
import stat
from pathlib import Path
from typing import Any

from pocketvlm import files
from pocketvlm.errors import CheckpointError
from pocketvlm_targets.text import decode_text, parse_json

# Vocabularies of 256k tokens take about 32 MB.
_MAX_BYTES = 256 << 20
# What the exporter or transformers opens.
_READ = (".json", ".jinja", ".safetensors", ".model", ".txt")
_TEMPLATES = "additional_chat_templates"


def check_files(folder: Path) -> None:
    """Refuse a checkpoint with a pipe, a device or the like, or a link to one, in place of a file.
    Reading it may wait for ever, or never end. Raises `CheckpointError`."""
    for path in sorted([*folder.iterdir(), *(folder / _TEMPLATES).glob("*")]):
        if path.suffix in _READ and path.exists() and not path.is_dir():
            _check_regular(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in ``path``, {} where there is no such file; raises `PocketVLMError` for
    anything else."""
    if not path.exists() or path.is_dir():
        return {}
    try:
        content = parse_json(_unmarked(path))
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not readable JSON ({error})", advice="download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object", advice="download it again")
    return content


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, without the byte order mark that editors put before it;
    raises `CheckpointError` where it has none.

    transformers leaves the mark in every prompt, where no model has seen one.
    """
    _check_regular(path)
    _check_size(path)
    try:
        return files.read_text(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as text ({error})", advice="save it as UTF-8"
        ) from error


def _unmarked(path: Path) -> str:
    """The text of a JSON file; one with a mark is refused, as transformers, which reads it after
    us, refuses it without its name."""
    _check_regular(path)
    _check_size(path)
    content = path.read_bytes()
    if content.startswith(codecs.BOM_UTF8):
        raise CheckpointError(
            f"{path} begins with a byte order mark, which transformers does not read",
            advice="save it as UTF-8 without one",
        )
    return decode_text(content)


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be opened ({error.strerror or error})", advice="download it again"
        ) from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{path} is not a regular file", advice="give the folder of a Hugging Face checkpoint"
        )


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise CheckpointError(
            f"{path} has {size >> 20} MB",
            expected=f"at most {_MAX_BYTES >> 20} MB of text",
            advice="download it again",
        )
