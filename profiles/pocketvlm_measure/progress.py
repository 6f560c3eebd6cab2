"""Knows how a long measurement shows how far it is: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], **options: Any) -> tqdm[Item]:
    """A bar of tqdm's over ``items``, with its options; none where standard error is not a
    terminal, or is missing as in a program without a console."""
    return tqdm(items, disable=_hidden(), **options)


def counter(**options: Any) -> tqdm[Any]:
    """As `progress`, of what is counted by its ``update``."""
    return tqdm(disable=_hidden(), **options)


def _hidden() -> bool | None:
    return True if sys.stderr is None else None
