"""Knows the filters and tests of chat templates, as published ones use them, and charges each
before it works."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2.sandbox import SecurityError

from pocketvlm import upstream
from pocketvlm.text.work import (
    ITEM,
    charge_indent,
    charge_join,
    charge_replacement,
    work,
)

_MAX_INDENT = 16
_MAX_SEPARATOR = 16  # characters, of JSON
_MAX_PLACES = 30  # that a number is rounded to


def charged_filters(filters: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Those of jinja2's filters that a chat template may use; ``tojson`` is that of
    transformers."""
    kept = {name: _charged(name, filters[name]) for name in (*_CHARGES, *_GOING_THROUGH)}
    return kept | {"tojson": _to_json}


def charged_tests(tests: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """jinja2's tests; those that compare are charged what they compare."""
    return {name: _charged_test(name, test) for name, test in tests.items()}


def measured(value: Any, is_search: bool = False) -> Any:
    """A value as it is, charged for being compared; a mapping is searched in no time."""
    if is_search and isinstance(value, Mapping):
        work().charge(ITEM)
    else:
        work().charge_value(value)
    return value


def _charge_text(value: Any, *args: Any, **kwargs: Any) -> Any:
    work().charge_text(value)
    return value


def _charge_nothing(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


def _charge_list(value: Any, *args: Any, **kwargs: Any) -> Any:
    """Of filters that compare items."""
    items = value if isinstance(value, (Mapping, str)) else list(work().iterate(value))
    work().charge_value(items, 4)
    return items


def _charge_join(value: Any, d: Any = "", *args: Any, **kwargs: Any) -> Any:
    items = list(work().iterate(value))
    charge_join(str(d), items)
    return items


def _charge_replace(value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    _charge_text([value, old, new])
    charge_replacement(str(value), str(old), str(new), count)
    return value


def _charge_indent(value: Any, width: int | str = 4, *args: Any, **kwargs: Any) -> Any:
    _charge_text(value)
    charge_indent(str(value), width)
    return value


def _charge_round(value: Any, precision: int = 0, *args: Any, **kwargs: Any) -> Any:
    if abs(precision) > _MAX_PLACES:
        raise SecurityError("a number is rounded to too many places")
    return value


# The filters that a template may use, with what is charged before each.
_CHARGES: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(
        [
            "abs",
            "count",
            "d",
            "default",
            "first",
            "int",
            "float",
            "items",
            "last",
            "length",
            "safe",
            "tojson",
        ],
        _charge_nothing,
    ),
    **dict.fromkeys(
        [
            "capitalize",
            "e",
            "escape",
            "forceescape",
            "lower",
            "string",
            "title",
            "trim",
            "truncate",
            "upper",
            "wordcount",
        ],
        _charge_text,
    ),
    **dict.fromkeys(("dictsort", "groupby", "max", "min", "sort", "unique"), _charge_list),
    "indent": _charge_indent,
    "join": _charge_join,
    "replace": _charge_replace,
    "round": _charge_round,
}
# Of these each item is charged as it comes.
_GOING_THROUGH = ("list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
_COMPARING = (
    *("eq", "equalto", "==", "ne", "!=", "in"),
    *("lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">="),
)


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2's that is charged before it is called, and for what it makes."""
    own = int(upstream.takes_its_environment(function))  # arguments before the value
    charge = _CHARGES.get(name, lambda value, *args, **kwargs: work().iterate(value))

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        work().charge(ITEM)
        value = charge(*args[own:], **kwargs)
        result = function(*args[:own], value, *args[own + 1 :], **kwargs)
        if isinstance(result, (str, list, tuple)):
            work().charge(len(result) * (1 if isinstance(result, str) else ITEM))
        return work().integer(result)

    return filtered


def _charged_test(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    """A test of jinja2's; those that compare are charged what they compare."""
    if name not in (*_COMPARING, "lower", "upper"):
        return test

    @functools.wraps(test)
    def tested(*args: Any) -> Any:
        for value in args:
            work().charge_text(value) if name in ("lower", "upper") else measured(value)
        return test(*args)

    return tested


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML; models were trained on plain JSON."""
    if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
        raise SecurityError("JSON is indented too far")
    if separators is not None and any(len(text) > _MAX_SEPARATOR for text in separators):
        raise SecurityError("JSON has too long separators")
    work().charge_text(value)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    pieces = []
    for piece in encoder.iterencode(value):
        work().charge(len(piece))
        pieces.append(piece)
    return "".join(pieces)
