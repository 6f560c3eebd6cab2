"""Knows which of an artifact's graphs serve a budget or a precision."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.artifact.manifest import Manifest
from pocketvlm.errors import RequestError


def is_nested(manifest: Manifest) -> bool:
    """Whether smaller budgets may be cut from a larger graph; never without a method, whose scores
    mean nothing."""
    return manifest.pruning.nested and manifest.pruning.method != "none"


def pick_graph(manifest: Manifest, budget: int | None) -> int:
    """The exported k that serves ``budget``: equal, or the smallest larger one where the method is
    nested."""
    exported = sorted(manifest.vision.graphs)
    wanted = manifest.pruning.default_budget if budget is None else budget
    if not 1 <= wanted <= manifest.pruning.tokens_before:
        raise RequestError(
            f"budget {wanted} is not within 1..{manifest.pruning.tokens_before}, a picture's tokens"
        )
    if wanted in exported:
        return wanted
    larger = [k for k in exported if k > wanted]
    if larger and is_nested(manifest):
        return larger[0]
    served = f"1..{exported[-1]}" if is_nested(manifest) else " or ".join(map(str, exported))
    raise RequestError(
        (
            f"budget {wanted} is not in this artifact, which serves {served} of "
            f"{manifest.pruning.tokens_before} tokens"
        ),
        advice=f"choose one of these or export again with --budget {wanted}",
    )


def pick_precision(graphs: Mapping[str, str], precision: str, what: str) -> str:
    """The file name for a precision of ``what``; raises `RequestError` where there is none."""
    if precision not in graphs:
        raise RequestError(
            f"the {what} has no precision {precision!r}",
            advice=f"this artifact has {', '.join(graphs)}",
        )
    return graphs[precision]
