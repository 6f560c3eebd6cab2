"""Knows how using.json of an artifact is held against its schema."""

import json
from pathlib import Path
from typing import Any

import fastjsonschema

from pocketvlm_export.packaging.using import FACTS, facts_schema

_check = fastjsonschema.compile(facts_schema())


def check_facts(folder: Path) -> dict[str, Any]:
    """The facts of an artifact; raises JsonSchemaException where they are not what clients read."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    _check(facts)
    files = facts["files"]
    assert all((folder / name).stat().st_size == size for name, size in files.items())
    named = [graph["file"] for graph in facts["graphs"].values()]
    named += [file for by in facts["vision"]["graphs"].values() for file in by.values()]
    named += (facts["decoder"] or {}).get("graphs", {}).values()
    named += (facts["decoder"] or {}).get("tables", {}).values()
    named += [name for data in facts["weights"].values() for name in data]
    assert set(named) <= files.keys()
    return facts
