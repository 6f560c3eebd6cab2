"""Knows how generated text gets into the README: between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

import re
from pathlib import Path


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers of ``name``; ValueError when the file has no such markers."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    page, found = pattern.subn(lambda match: f"{match[1]}{text}\n{match[2]}", path.read_text())
    if found != 1:
        raise ValueError(f"{path} has {found} sections '{name}'; expected one '<!-- {name} -->'")
    path.write_text(page)
