"""Knows what a method from another package must be, before anything is done with it."""

from typing import Any, get_args

from pocketvlm_export.pruning.base import LATE, TEXT, Pruner, Reads


def problem(name: str, loaded: Any) -> str | None:
    """Return what keeps ``loaded``, which a package registers under ``name``, from being a method;
    None where nothing does."""
    if not isinstance(loaded, type) or not issubclass(loaded, Pruner):
        kind = f"the class {loaded.__name__}" if isinstance(loaded, type) else type(loaded).__name__
        return f"it is {kind}, no class derived from pocketvlm_export.pruning.base.Pruner"
    for field in ("name", "title", "paper", "keeps"):
        if not isinstance(getattr(loaded, field, None), str):
            return f"its {field} is no text"
    if loaded.name != name:
        return f"it calls itself {loaded.name!r}"
    if not isinstance(loaded.reads, frozenset) or loaded.reads - set(get_args(Reads)):
        return f"it reads {loaded.reads!r}, of which {', '.join(get_args(Reads))} can be read"
    if loaded.score is Pruner.score and loaded.select is Pruner.select:
        return "it has neither score nor select"
    if not callable(loaded.oracle):
        return "it has no oracle, without which nothing it does can be checked"
    if loaded.merges and TEXT in loaded.reads:
        return "it merges and reads the prompt, and what selects by that gives tokens as they are"
    if loaded.merges and (loaded.nested or not loaded.reads & LATE):
        return "it merges, and is nested or reads neither features nor projected"
    return None
