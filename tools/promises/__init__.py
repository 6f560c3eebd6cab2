"""Knows what docs/stability.md promises, as far as it can be listed: names and parameters of the
Python API, options of commands, exit codes, versions of formats, entry points.

``PYTHONPATH=tools python -m promises`` records it in docs/promises.json. A test holds the record
against the code, so that a promise changes in no commit that does not change the record.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import pocketvlm
import pocketvlm_export
from pocketvlm import errors
from pocketvlm.artifact import SCHEMA_VERSION
from pocketvlm.cli import main
from pocketvlm_export.packaging import using
from pocketvlm_export.verification.gate import ParityError

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "promises.json"
_ERRORS = ("CheckpointError", "ArtifactError", "PictureError", "RequestError", "EngineError")
_FOR_TOOLS = ("parts", "prepare")  # of a VLM, as their docstrings say
_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
# Entry points that other packages register.
_GROUPS = ("pocketvlm.commands", "pocketvlm.pruners", "pocketvlm.metrics")


def promises() -> dict[str, Any]:
    """All of it, as JSON holds it."""
    return {
        "python": {
            **_public(pocketvlm),
            **_public(pocketvlm_export),
            **{f"pocketvlm.errors.{name}": _described(getattr(errors, name)) for name in _ERRORS},
        },
        "commands": {name: _options(name) for name in _own_commands()},
        "exit_codes": {
            "done": 0,
            "refused": pocketvlm.PocketVLMError.exit_code,
            "usage": click.UsageError.exit_code,
            "parity": ParityError.exit_code,
            "interrupted": 130,
        },
        "formats": {"pocketvlm.json": SCHEMA_VERSION, "using.json": using.FORMAT},
        "entry_points": list(_GROUPS),
    }


def _public(module: ModuleType) -> dict[str, Any]:
    names = (name for name in sorted(module.__all__) if name != "__version__")
    return {f"{module.__name__}.{name}": _described(getattr(module, name)) for name in names}


def _described(item: Any) -> Any:
    """Parameters of a function; of a class those of its public methods, and its fields."""
    if not inspect.isclass(item):
        return _parameters(item)
    described: dict[str, Any] = {}
    if dataclasses.is_dataclass(item):
        described["fields"] = [field.name for field in dataclasses.fields(item)]
    else:
        described["attributes"] = sorted(set(_attributes(item)))
    described["methods"] = {
        name: _parameters(getattr(item, name))
        for name, _ in inspect.getmembers(item)
        if name[0] != "_"
        and name not in _FOR_TOOLS
        and callable(getattr(item, name))
        and _is_ours(item, name)
    }
    return {key: value for key, value in described.items() if value}


def _attributes(cls: type) -> Iterable[str]:
    """Properties, class attributes and what ``__init__`` sets, but for names with an underscore."""
    for ancestor in cls.__mro__:
        if not ancestor.__module__.startswith("pocketvlm"):
            continue
        held = vars(ancestor)
        names = [name for name, value in held.items() if isinstance(value, property)]
        names += held.get("__annotations__", ())
        if "__init__" in held:
            tree = ast.parse(textwrap.dedent(inspect.getsource(held["__init__"])))
            names += [
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and ast.unparse(node.value) == "self"
            ]
        yield from (name for name in names if name[0] != "_" and name not in _FOR_TOOLS)


def _is_ours(cls: type, name: str) -> bool:
    """Whether a method comes from a class of PocketVLM's, not from Exception or the like."""
    return any(
        name in vars(ancestor) and ancestor.__module__.startswith("pocketvlm")
        for ancestor in cls.__mro__
    )


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names as they may be used: ``name`` must be given, ``name=`` has a default, behind ``*`` all
    are given by name."""
    written, keyword = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            written.append("*")
            keyword = True
        stars = _STARS.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else "="
        written.append(f"{stars}{parameter.name}{default}")
    return written


def _own_commands() -> Iterable[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["entry-points"]["pocketvlm.commands"])


def _options(name: str) -> list[str]:
    """A command's options and arguments, as they are written."""
    command = main.get_command(click.Context(main), name)
    assert command is not None, name
    return sorted(
        written
        for parameter in command.params
        for written in (
            [parameter.make_metavar(click.Context(command))]
            if isinstance(parameter, click.Argument)
            else [*parameter.opts, *parameter.secondary_opts]
        )
    )
