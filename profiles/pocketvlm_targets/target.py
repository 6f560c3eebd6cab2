"""Knows the keys of a deployment target, their values, and which of them contradict each other;
nothing about files or comments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketvlm_targets.text import one_line

# What --decoder can be, and the engines that an artifact then serves, the preferred one first.
DECODERS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx",),
    "llama.cpp": ("llama.cpp",),
    "both": ("onnx", "llama.cpp"),
}
# Files that a graph can be: ONNX for every build of ONNX Runtime, its own format for reduced ones.
FORMATS = ("onnx", "ort")
_PRECISION = re.compile(r"[a-z0-9_]{1,20}")
_PROVIDER = re.compile(
    r"[A-Za-z][A-Za-z0-9]{0,60}(:[^\s=,]{1,80}=[^,]{0,400}(,[^\s=,]{1,80}=[^,]{0,400})*)?"
)
_MOST = 10_000_000
_METHOD = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_LONGEST_METHOD = 40
_STAGE = re.compile(r"[0-9]{1,5}:[0-9]{1,7}(:[a-z0-9_-]{1,40})?", re.ASCII)
_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", re.ASCII)
_MOST_PIXELS = 100_000_000


class TargetError(ValueError):
    """A target that cannot be used.

    As text it is one line, ``found: expected ...; advice``.

    Attributes:
        found: the file, the key, and what was found there.
        expected: what was expected instead, as words that follow "expected"; empty where ``found``
            says it.
        advice: what to do next, as an imperative; empty where ``expected`` says it.
    """

    def __init__(self, found: str, expected: str = "", advice: str = "") -> None:
        super().__init__(found, expected, advice)
        self.found = found
        self.expected = expected
        self.advice = advice

    def __str__(self) -> str:
        """The one line."""
        rest = [f"expected {self.expected}"] if self.expected else []
        rest += [self.advice] if self.advice else []
        return one_line(f"{self.found}: {'; '.join(rest)}" if rest else self.found)


@dataclass(frozen=True)
class Target:
    """The settings that suit a device. None, and an empty tuple, leave the command's default.

    Attributes:
        name: of a shipped target, or the file as it was given.
        description: one line for people.
        pruner: the method that drops visual tokens.
        budget: visual tokens per picture, a graph each, the default first.
        tower_stage: stages inside the vision tower, each ``LAYER:KEEP[:BY]``.
        max_pixels: height times width of a picture at most, where models take any size.
        max_tiles: parts that a picture is cut into at most, where models cut them.
        fixed_size: one size of all pictures, ``448x644``, height first, where models take any.
        image_size: edge of pictures or tiles in pixels, or ``168x224``, height first, at most,
            where models have one size of their own.
        decoder: a key of `DECODERS`.
        vision_precision, decoder_precision, embed_precision: names of the exporter's precisions,
            the default first.
        shared_tables: whether a table that the decoder's file holds too is stored once, there.
        gguf_type: types of GGUF files, the default first.
        portable: keep to standard ONNX operators, for engines that lack ONNX Runtime's own.
        format: of the graphs, one of `FORMATS`.
        threads: for each engine while answering.
        context: longest sequence in tokens.
        provider: what ONNX Runtime computes with while answering, the preferred one first,
            ``NAME[:KEY=VALUE,...]`` each.
        memory_limit: MB (10^6 bytes) that a process may hold while answering.
        reasons: {key: the comment above it}.
    """

    name: str
    description: str
    pruner: str | None = None
    budget: tuple[int, ...] = ()
    tower_stage: tuple[str, ...] = ()
    max_pixels: int | None = None
    max_tiles: int | None = None
    fixed_size: str | None = None
    image_size: int | str | None = None
    decoder: str | None = None
    vision_precision: tuple[str, ...] = ()
    decoder_precision: tuple[str, ...] = ()
    embed_precision: tuple[str, ...] = ()
    shared_tables: bool | None = None
    gguf_type: tuple[str, ...] = ()
    portable: bool | None = None
    format: str | None = None
    threads: int | None = None
    context: int | None = None
    provider: tuple[str, ...] = ()
    memory_limit: int | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the values that the file gives, by key, in the order of `KEYS`."""
        values = {key: getattr(self, key) for key in KEYS}
        return {key: value for key, value in values.items() if value is not None and value != ()}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("a line of text")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST:
        raise ValueError(f"a whole number from 1 to {_MOST}")
    return value


def _size(value: Any) -> str:
    size = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if size is None or int(size[1]) * int(size[2]) > _MOST_PIXELS:
        raise ValueError('height and width in pixels, as in "448x644"')
    return str(value)


def _edges(value: Any) -> int | str:
    """One number for both, or a text of two."""
    try:
        _size(value if isinstance(value, str) else f"{value}x{value}")
    except ValueError:
        raise ValueError('pixels of an edge, or height and width, as in "168x224"') from None
    return int(value) if type(value) is int else str(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def _one_of(*names: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(" or ".join(f'"{name}"' for name in names))
        return str(value)

    return check


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _PRECISION.fullmatch(value):
        raise ValueError("a name of small letters and digits")
    return value


def _method(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_METHOD or not _METHOD.fullmatch(value):
        raise ValueError("the name of a method, in small letters")
    return value


def _stage(value: Any) -> str:
    if not isinstance(value, str) or not _STAGE.fullmatch(value):
        raise ValueError('LAYER:KEEP or LAYER:KEEP:BY, as in "2:72"')
    return value


def _provider(value: Any) -> str:
    if not isinstance(value, str) or not _PROVIDER.fullmatch(value):
        raise ValueError('an execution provider, as in "openvino" or "cuda:device_id=1"')
    return value


def _list_of(check: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def check_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not value:
            raise ValueError("a list with at least one value")
        items = tuple(check(item) for item in value)
        if len(set(items)) != len(items):
            raise ValueError("a list that names each value once")
        return items

    return check_all


# One line for each key of a target: what its value must be. A key is named as its option.
KEYS: Mapping[str, Callable[[Any], Any]] = {
    "description": _text,
    "pruner": _method,
    "budget": _list_of(_count),
    "tower_stage": _list_of(_stage),
    "max_pixels": _count,
    "max_tiles": _count,
    "fixed_size": _size,
    "image_size": _edges,
    "decoder": _one_of(*DECODERS),
    "vision_precision": _list_of(_name),
    "decoder_precision": _list_of(_name),
    "embed_precision": _list_of(_name),
    "shared_tables": _flag,
    "gguf_type": _list_of(_name),
    "portable": _flag,
    "format": _one_of(*FORMATS),
    "threads": _count,
    "context": _count,
    "provider": _list_of(_provider),
    "memory_limit": _count,
}


def make_target(name: str, table: Mapping[str, Any], reasons: Mapping[str, str]) -> Target:
    """Check a table and return the target that it describes.

    Args:
        name: what to call it in errors.
        table: as read from TOML.
        reasons: {key: why}.

    Raises:
        TargetError: an unknown key, a value of another type, no description, or values that
            contradict each other.
    """
    values = {}
    for key, value in table.items():
        if key not in KEYS:
            raise TargetError(
                f"{name}: {_short(key)} is not a key of a target",
                advice=f"choose from {', '.join(KEYS)}",
            )
        try:
            values[key] = KEYS[key](value)
        except ValueError as error:
            raise TargetError(f"{name}: {key} is {_short(value)}", expected=str(error)) from error
    if "description" not in values:
        raise TargetError(f"{name}: description is missing", advice="name the device in one line")
    target = Target(name, **values, reasons=dict(reasons))
    _check_combinations(target)
    return target


def _check_combinations(target: Target) -> None:
    onnx, llama_cpp = target.decoder != "llama.cpp", target.decoder in ("llama.cpp", "both")
    largest = max(target.budget, default=0)
    problems = (
        (
            bool(target.decoder_precision) and not onnx,
            "decoder_precision is for ONNX Runtime, decoder is llama.cpp",
            "name a gguf_type instead",
        ),
        (
            bool(target.embed_precision) and not onnx,
            "embed_precision is for ONNX Runtime, decoder is llama.cpp, which has its table in the "
            "GGUF file",
            "leave it out",
        ),
        (
            bool(target.gguf_type) and not llama_cpp,
            "gguf_type is for llama.cpp, decoder is onnx",
            'write decoder = "llama.cpp" or "both"',
        ),
        (
            target.portable is True and target.format == "ort",
            "portable asks for standard operators, format is ort, which only ONNX Runtime reads",
            "choose one",
        ),
        (
            target.max_pixels is not None and target.fixed_size is not None,
            "max_pixels caps pictures of any size, fixed_size gives all of them one",
            "choose one",
        ),
        (
            target.context is not None and target.context <= largest,
            f"context is {target.context}, budget is {largest}",
            "choose them so that a picture leaves room for a question and an answer",
        ),
    )
    for holds, problem, advice in problems:
        if holds:
            raise TargetError(f"{target.name}: {problem}", advice=advice)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
