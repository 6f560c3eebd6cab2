"""Knows which of an artifact's graphs serve a budget or a precision."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.artifact.manifest import Manifest
from pocketvlm.errors import RequestError
from pocketvlm.limits import whole

# What `pocketvlm export` makes, by the setting that names it.
_EXPORTED = {
    "decoder_precision": ("fp32", "fp16", "int8", "int4"),
    "vision_precision": ("fp32", "fp16", "int8"),
}


def is_nested(manifest: Manifest) -> bool:
    """Whether smaller budgets may be cut from a larger graph: never for method ``none``, whose
    scores are all zero."""
    return manifest.pruning.nested


def serving_graph(manifest: Manifest, budget: int) -> int | None:
    """The exported k that serves ``budget``: equal, or the smallest larger one where the method is
    nested. None where no graph serves it."""
    if not 1 <= budget <= manifest.pruning.tokens_before:
        return None
    exported = manifest.vision.graphs
    if budget in exported:
        return budget
    larger = [k for k in exported if k > budget] if is_nested(manifest) else []
    return min(larger, default=None)


def pick_graph(manifest: Manifest, budget: int | None) -> int:
    """The exported k that serves ``budget``, see `serving_graph`.

    Args:
        manifest: of the artifact.
        budget: visual tokens per tile; None is the artifact's default.

    Raises:
        RequestError: no graph serves it.
    """
    requested = manifest.pruning.default_budget if budget is None else budget
    requested = whole(requested, "budget")
    graph = serving_graph(manifest, requested)
    if graph is not None:
        return graph
    exported = sorted(manifest.vision.graphs)
    served = f"1..{exported[-1]}" if is_nested(manifest) else " or ".join(map(str, exported))
    if not 1 <= requested <= manifest.pruning.tokens_before:
        raise RequestError(
            f"budget {requested}",
            expected=f"{served}: what this artifact serves of the "
            f"{manifest.pruning.tokens_before} tokens of a picture",
            setting="budget",
        )
    raise RequestError(
        f"budget {requested} is not in this artifact, which serves {served} of "
        f"{manifest.pruning.tokens_before} tokens",
        advice=f"choose one of these or export again with --budget {requested}",
        setting="budget",
    )


def _exporting(precision: str, what: str, setting: str) -> str:
    """How graphs of a precision come about; nothing where no export makes them."""
    plain = what == "decoder" or setting == "vision_precision"
    if not plain or precision not in _EXPORTED.get(setting, ()):
        return ""
    return f"or export again with --{setting.replace('_', '-')} {precision}"


def pick_precision(
    graphs: Mapping[str, str], precision: str, what: str, *, setting: str = "decoder_precision"
) -> str:
    """The file of a precision.

    Args:
        graphs: {precision: file name}.
        precision: the requested one.
        what: the graphs' name in a refusal.
        setting: see `PocketVLMError.setting`.

    Raises:
        RequestError: there is none of this precision.
    """
    if precision not in graphs:
        raise RequestError(
            f"the {what} has no precision {precision!r}",
            expected=f"one of {', '.join(graphs)}",
            advice=_exporting(precision, what, setting),
            setting=setting,
        )
    return graphs[precision]
