"""Knows which of an artifact's graphs serve a budget or a precision."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.artifact.manifest import Manifest
from pocketvlm.errors import RequestError


def is_nested(manifest: Manifest) -> bool:
    """Whether smaller budgets may be cut from a larger graph; never without a method, whose scores
    mean nothing."""
    return manifest.pruning.nested and manifest.pruning.method != "none"


def serving_graph(manifest: Manifest, budget: int) -> int | None:
    """The exported k that serves ``budget``, or None where no graph does.

    It is the graph of ``budget`` itself, or the smallest larger one where the method is nested.
    """
    if not 1 <= budget <= manifest.pruning.tokens_before:
        return None
    graphs = manifest.vision.graphs
    if budget in graphs:
        return budget
    larger = [k for k in graphs if k > budget] if is_nested(manifest) else []
    return min(larger, default=None)


def pick_graph(manifest: Manifest, budget: int | None) -> int:
    """The exported k that serves ``budget``, by default the artifact's; see `serving_graph`.

    Raises:
        RequestError: no graph serves it.
    """
    k = manifest.pruning.default_budget if budget is None else budget
    graph = serving_graph(manifest, k)
    if graph is not None:
        return graph
    most = manifest.pruning.tokens_before
    if not 1 <= k <= most:
        raise RequestError(
            f"budget {k} is not within 1..{most}, the visual tokens per picture or tile",
            setting="budget",
        )
    exported = sorted(manifest.vision.graphs)
    served = f"1..{exported[-1]}" if is_nested(manifest) else " or ".join(map(str, exported))
    raise RequestError(
        f"budget {k} is not in this artifact",
        expected=f"{served} of {most} visual tokens",
        advice=f"choose one of these or export again with --budget {k}",
        setting="budget",
    )


def pick_precision(
    graphs: Mapping[str, str], precision: str, what: str, *, setting: str = ""
) -> str:
    """The file name for a precision.

    Args:
        graphs: {precision: file name}.
        precision: the one that is asked for.
        what: the graphs in words, for the refusal.
        setting: the option that asked for it, see `pocketvlm.errors.PocketVLMError`.

    Raises:
        RequestError: there is none.
    """
    if precision not in graphs:
        raise RequestError(
            f"the {what} has no precision {precision!r}",
            expected=" or ".join(graphs),
            setting=setting,
        )
    return graphs[precision]
