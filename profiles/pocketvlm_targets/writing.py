"""Knows how a target is written: the reason of each value in a comment right above it, as
`pocketvlm_targets.reading` reads them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pocketvlm_targets.target import Target, make_target

_WIDTH = 100
_WHOLE: Any = {"break_long_words": False, "break_on_hyphens": False}  # addresses stay whole
_COMMENT = "# "


def write_target(target: Target) -> str:
    """Return the text of a file that `load_target` reads as ``target``, name apart.

    White space in a reason comes back as single spaces. What a terminal or an editor would act on
    is replaced, so a reason stays a comment whatever it holds.
    """
    return "\n\n".join("\n".join(lines) for lines in _entries(target)) + "\n"


def lines_of(target: Target) -> Iterator[str]:
    """The same for people, line by line, without the empty ones between values."""
    for lines in _entries(target):
        yield from lines


def target_of(
    description: str, values: Mapping[str, tuple[Any, str]], name: str = "target"
) -> Target:
    """Return the target of ``values``, {key: (value, reason)}, checked as one that is read.

    Args:
        description: one line for people; what is not printable in it is replaced.
        values: of `KEYS`, a list or tuple where a key takes several.
        name: what to call it in errors.

    Raises:
        TargetError: see `make_target`.
    """
    table: dict[str, Any] = {"description": plain_line(description)}
    table |= {
        key: list(value) if isinstance(value, tuple) else value
        for key, (value, _) in values.items()
    }
    return make_target(
        name, table, {key: plain_line(reason) for key, (_, reason) in values.items()}
    )


def plain_line(text: str) -> str:
    """``text`` as one line: white space is a space, and what is not printable a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _entries(target: Target) -> Iterator[list[str]]:
    """The lines of each value, its reason first."""
    for key, value in target.settings().items():
        reason = plain_line(target.reasons.get(key, ""))
        comment = textwrap.wrap(
            reason, _WIDTH, initial_indent=_COMMENT, subsequent_indent=_COMMENT, **_WHOLE
        )
        # JSON writes the types that a target has just as TOML does: no text in it has control
        # characters.
        written = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
        yield [*comment, f"{key} = {written}"]
