"""Knows where targets lie and how a file is read: the values by tomllib, the reasons from the
comments above them."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

from pocketvlm_targets.target import Target, TargetError, make_target
from pocketvlm_targets.text import decode_text, user_path

_FOLDER = Path(__file__).parent
_SUFFIX = ".toml"
_MAX_BYTES = 64 << 10  # far beyond any target; a file is read whole
_KEY = re.compile(r"([A-Za-z0-9_-]+)\s*=")


def target_names() -> tuple[str, ...]:
    """Return the names of the shipped targets, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}")))


def load_target(name_or_file: str | os.PathLike[str]) -> Target:
    """Read a shipped target by name, or a file.

    Raises:
        TargetError: neither exists, it is not TOML, or `make_target` refuses a value.
    """
    given = os.fspath(name_or_file)
    if given in target_names():
        return _parse(given, (_FOLDER / f"{given}{_SUFFIX}").read_bytes())
    path = user_path(given)
    if path.suffix != _SUFFIX:
        raise TargetError(
            f"no target {given!r}",
            advice=f"choose from {', '.join(target_names())}, or give a file that ends in "
            f"{_SUFFIX}",
        )
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise TargetError(
            f"{given} cannot be read ({_reason(error)})", advice="give the file of a target"
        ) from error
    return _parse(given, content)


def _parse(name: str, content: bytes) -> Target:
    if len(content) > _MAX_BYTES:
        raise TargetError(
            f"{name} is not a target, it has more than {_MAX_BYTES >> 10} KiB",
            advice="give the file of one",
        )
    try:
        text = decode_text(content)
        table = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise TargetError(
            f"{name} is not valid TOML ({_reason(error)})", advice="correct it"
        ) from error
    return make_target(name, table, _reasons(text))


def _reasons(text: str) -> dict[str, str]:
    """Return the comment right above each key, as one line."""
    reasons: dict[str, str] = {}
    comment: list[str] = []
    for line in map(str.strip, text.split("\n")):
        if line.startswith("#"):
            comment.append(line.lstrip("#").strip())
            continue
        if comment and (match := _KEY.match(line)):
            reasons[match[1]] = " ".join(comment)
        comment = []
    return reasons


def _reason(error: Exception) -> str:
    return (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else str(error) or type(error).__name__
    )
