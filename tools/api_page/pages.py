"""Knows how a docstring becomes Markdown: griffe reads it, without importing what it describes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe

from api_page.names import CHAPTERS, VALUES, Chapter

_ROOT = Path(__file__).parents[2]
_PACKAGES = [str(_ROOT / folder) for folder in ("runtime", "exporter", "profiles")]
_TABLES = {"attributes": "attribute", "parameters": "argument", "other parameters": "argument"}
# A run of examples: from a prompt to the next empty line.
_EXAMPLE = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_WIDTH = 100


def render() -> str:
    """All chapters as Markdown."""
    loader = griffe.GriffeLoader(search_paths=_PACKAGES, docstring_parser="google")
    for package in sorted({chapter.module.split(".")[0] for chapter in CHAPTERS}):
        loader.load(package)
    loader.resolve_aliases()
    return "\n\n".join(part for chapter in CHAPTERS for part in _chapter(chapter, loader))


def _chapter(chapter: Chapter, loader: griffe.GriffeLoader) -> Iterator[str]:
    yield f"## {chapter.title}\n\n{chapter.about}"
    for name in chapter.names:
        entry = loader.modules_collection[f"{chapter.module}.{name}"]
        yield from _entry(name, chapter.module, entry.final_target if entry.is_alias else entry)


def _entry(name: str, module: str, entry: griffe.Object) -> Iterator[str]:
    title = name.replace("_", r"\_") if name.startswith("_") else name
    yield f"### {title}"
    yield f"`from {module} import {name}`"
    if name in VALUES:  # a plain value has no docstring
        yield _fenced(VALUES[name])
        return
    if isinstance(entry, griffe.Function):
        yield _signature(name, entry)
    yield from _docstring(entry, defaults=_defaults(entry))
    if isinstance(entry, griffe.Class):
        for method in _methods(entry):
            yield f"#### {name}.{method.name}"
            if isinstance(method, griffe.Function):
                yield _signature(method.name, method)
            yield from _docstring(method)


def _methods(entry: griffe.Class) -> Iterator[griffe.Object]:
    """Public methods and properties, in the order of the source."""
    for name, member in entry.members.items():
        if member.is_alias or name.startswith("_") or member.docstring is None:
            continue
        if isinstance(member, griffe.Function) or "property" in member.labels:
            yield member


def _defaults(entry: griffe.Object) -> dict[str, str]:
    """The default of each field of a dataclass, as it is written."""
    if "dataclass" not in entry.labels:
        return {}
    fields = [member for member in entry.members.values() if isinstance(member, griffe.Attribute)]
    values = {field.name: str(field.value) for field in fields if field.value is not None}
    return {name: _default(value) for name, value in values.items()}


def _default(value: str) -> str:
    """The value that `dataclasses.field` sets, where a default is written with it."""
    made = re.sub(r"^field\(default_factory=(\w+).*\)$", r"\1()", value)
    return re.sub(r"^field\(default=([^,()]+).*\)$", r"\1", made)


def _signature(name: str, function: griffe.Function) -> str:
    own = [each for each in function.parameters if each.name not in ("self", "cls")]
    parts, starred = [], False
    for each in own:
        if each.kind is griffe.ParameterKind.keyword_only and not starred:
            parts.append("*")
            starred = True
        default = "" if each.default is None else f" = {each.default}"
        parts.append(f"{each.name}: {each.annotation}{default}")
    result = f" -> {function.returns}" if function.returns else ""
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) > _WIDTH:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"
    return f"```py\n{line}\n```"


def _docstring(entry: griffe.Object, defaults: dict[str, str] | None = None) -> Iterator[str]:
    if entry.docstring is None:
        return
    for section in entry.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield _fenced(section.value)
        elif kind in _TABLES:
            yield _table(_TABLES[kind], section.value, defaults or {})
        elif kind == "raises":
            rows = [
                f"| `{each.annotation}` | {_line(each.description)} |" for each in section.value
            ]
            yield "\n".join(["| raises | if |", "|---|---|", *rows])
        else:
            raise ValueError(f"{entry.path} has a section of kind {kind}, which no page shows")


def _table(head: str, rows: Iterable[Any], defaults: dict[str, str]) -> str:
    """Rows of names, with their defaults where the entry has some."""
    lines = [f"| {head} |{' default |' if defaults else ''} |"]
    lines.append("|---" * (3 if defaults else 2) + "|")
    for row in rows:
        if not row.name.isidentifier():
            raise ValueError(f"a row of a docstring names {row.name!r}: one name is one row")
        default = f" `{_cell(defaults[row.name])}` |" if row.name in defaults else " |"
        middle = default if defaults else ""
        lines.append(f"| `{row.name}` |{middle} {_cell(_line(row.description))} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _line(text: str) -> str:
    """A description on one line, its references as code."""
    return " ".join(text.replace("``", "`").split())


def _fenced(text: str) -> str:
    """Text with its examples in fences."""
    parts, end = [], 0
    for example in _EXAMPLE.finditer(text):
        parts.append(text[end : example.start()].replace("``", "`"))
        parts.append(f"```pycon\n{example[0]}\n```")
        end = example.end()
    return "".join([*parts, text[end:].replace("``", "`")]).strip()
