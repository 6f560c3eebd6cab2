"""Knows what a method from another package must be, before anything is done with it, and that what
fails in it is one line that names the package."""

from collections.abc import Mapping
from typing import Any, get_args

from pocketvlm.plugins import Plugins
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import LATE, TEXT, Evidence, Pruner, Reads, Selection
from pocketvlm_export.pruning.options import Choice, Option


def problem(name: str, loaded: Any) -> str | None:
    """Return what keeps ``loaded``, which a package registers under ``name``, from being a method;
    None where nothing does."""
    if not isinstance(loaded, type) or not issubclass(loaded, Pruner):
        kind = f"the class {loaded.__name__}" if isinstance(loaded, type) else type(loaded).__name__
        return f"it is {kind}, not a class derived from pocketvlm_export.pruning.base.Pruner"
    for field in ("name", "title", "paper", "keeps"):
        if not isinstance(getattr(loaded, field, None), str):
            return f"its {field} is not a string"
    if loaded.name != name:
        return f"it calls itself {loaded.name!r}"
    if not isinstance(loaded.reads, frozenset) or loaded.reads - set(get_args(Reads)):
        return f"it reads {loaded.reads!r}, of which {', '.join(get_args(Reads))} can be read"
    for field in ("nested", "merges", "prunes"):
        if not isinstance(getattr(loaded, field), bool):
            return f"its {field} is {getattr(loaded, field)!r}, neither True nor False"
    if not isinstance(loaded.accepts, Mapping) or not all(
        isinstance(option, str) and isinstance(kind, Option | Choice)
        for option, kind in loaded.accepts.items()
    ):
        return "its accepts is not a mapping of names to an Option or a Choice each"
    if loaded.score is Pruner.score and loaded.select is Pruner.select:
        return "it has neither score nor select"
    if not callable(loaded.oracle):
        return "it has no oracle, without which nothing it does can be checked"
    if loaded.merges and TEXT in loaded.reads:
        return "it merges and reads the prompt, and what selects by that gives tokens as they are"
    if loaded.merges and (loaded.nested or not loaded.reads & LATE):
        return "it merges, and is nested or reads neither features nor projected"
    return None


def guarded(method: type[Pruner], plugins: Plugins) -> type[Pruner]:
    """Return a method that does as ``method`` does, one of ``plugins``, and blames its package for
    what fails in it: `RequestError`, with the failure as its cause."""

    class Guarded(method):  # type: ignore[misc, valid-type]  # a class that is known at run time
        def __init__(self, options: Mapping[str, str]) -> None:
            with plugins.blamed(method.name):
                super().__init__(options)

        def settle(self, vision: VisionSpec) -> None:
            with plugins.blamed(method.name):
                super().settle(vision)

        def first_layer(self, score_layer: int) -> int:
            with plugins.blamed(method.name):
                return super().first_layer(score_layer)

        def default_budget(self, tokens: int) -> int:
            with plugins.blamed(method.name):
                return super().default_budget(tokens)

        def select(self, evidence: Evidence, budget: int) -> Selection:
            with plugins.blamed(method.name):
                return super().select(evidence, budget)

    Guarded.__name__, Guarded.__doc__ = method.__name__, method.__doc__
    return Guarded
