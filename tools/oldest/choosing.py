"""Knows which tests need nothing of the exporter's libraries: by what they import, and what that
imports of the tests' own, and by the fixtures that they ask for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_TESTS = Path(__file__).parents[2] / "tests"
_TOOLS = _TESTS.with_name("tools")
_EXPORTERS = {"onnx_ir", "pocketvlm_export", "torch", "transformers"}
# Of tests/conftest.py, which exports.
_FIXTURES = {"board", "make_tiny", "tiny_checkpoint", "tiny_export", "traced_anew"}


def without_exporter(folder: Path) -> list[Path]:
    """Files of tests that run without the exporter, in the order of their names."""
    return [file for file in sorted(folder.rglob("test_*.py")) if not _exports(file)]


@cache
def _exports(file: Path, *, whole: bool = True) -> bool:
    """Whether a module needs the exporter: anywhere in it, or where it is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = set(_imported(tree, whole))
    if {name.partition(".")[0] for name in names} & _EXPORTERS:
        return True
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return (whole and bool(arguments & _FIXTURES)) or any(
        _exports(own, whole=False) for name in names for own in _own(name)
    )


def _imported(tree: ast.Module, whole: bool) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef) and not whole:
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own(name: str) -> Iterator[Path]:
    """Files of the tests' and tools' modules of this name."""
    for root in (_TESTS, _TOOLS):
        path = root.joinpath(*name.split("."))
        candidates = (path.with_suffix(".py"), path / "__init__.py")
        yield from (file for file in candidates if file.is_file())
