"""Knows which candidates a folder holds, and which of them the others are compared with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from pocketvlm.artifact import Artifact, Manifest, is_nested, serving_graph
from pocketvlm.layouts import counting_layout
from pocketvlm_measure.cases import ALL, sweep
from pocketvlm_measure.tune.tuning import Candidate

MOST = 40  # candidates that are tried at a time
_HALVINGS = 4  # of the largest budget, where a graph serves smaller ones
_SMALLER = 2  # halvings of a cap on pictures


def candidates_in(
    folder: Path,
    artifact: Artifact,
    *,
    budgets: Sequence[int] = (),
    decoders: Sequence[str] = (),
    decoder_precisions: Sequence[str] = (),
    vision_precisions: Sequence[str] = (),
    threads: int | None = None,
    providers: Sequence[str] = (),
) -> list[Candidate]:
    """All that one folder holds, or every combination of what is given.

    Args:
        folder: of the artifact.
        artifact: it, capped where pictures must not be larger; smaller ones are tried too where
            its layout allows it.
        budgets: none means those that were exported and, where a graph serves smaller ones, up to
            four halves of the largest.
        decoders: engines; none means all, as for what follows.
        decoder_precisions: see `sweep`; of all also the pair that the artifact answers by.
        vision_precisions: see `sweep`.
        threads: of each engine.
        providers: see `Case`.

    Raises:
        RequestError: something that the artifact does not have.
    """
    place = str(folder.resolve())
    engines = decoders or (ALL,)
    if tuple(decoder_precisions) in ((), (ALL,)):
        decoder_precisions = _all_precisions(artifact.manifest, engines)
    return [
        Candidate(place, case)
        for max_pixels, max_tiles in product(
            _caps(artifact, "max_pixels"), _caps(artifact, "max_tiles")
        )
        for case in sweep(
            artifact.manifest,
            budgets=budgets or default_budgets(artifact),
            decoders=engines,
            decoder_precisions=decoder_precisions,
            vision_precisions=vision_precisions or (ALL,),
            threads=(threads,),
            providers=providers,
            max_pixels=max_pixels,
            max_tiles=max_tiles,
        )
    ]


def _all_precisions(manifest: Manifest, engines: Sequence[str]) -> tuple[str, ...]:
    """Those of all decoders, and the pair by which ONNX Runtime's answer unless one is asked for.

    An engine that is tried takes what it has of them, see `sweep`.
    """
    decoder = manifest.decoder
    if not decoder.pair or not {"onnx", ALL} & set(engines) or "onnx" not in decoder.engines:
        return (ALL,)
    tried = decoder.engines if ALL in engines else engines
    names = (name for engine in tried for name in decoder.by_engine.get(engine, {}))
    return (*dict.fromkeys(names), decoder.pair)


def default_budgets(artifact: Artifact) -> list[int]:
    """Those that were exported and, where a graph serves smaller ones, halves of the largest."""
    manifest = artifact.manifest
    budgets = set(manifest.pruning.budgets)
    if is_nested(manifest):
        largest = max(budgets)
        halves = {max(1, largest >> times) for times in range(_HALVINGS + 1)}
        budgets |= {half for half in halves if serving_graph(manifest, half) is not None}
    return sorted(budgets, reverse=True)


def baseline_among(candidates: Iterable[Candidate]) -> Candidate:
    """The most exact one by the coarser of its precisions, of these the one of the most tokens, of
    these the one whose other precision is the most exact, of these the one of the largest
    pictures."""

    def rank(candidate: Candidate) -> tuple[float, ...]:
        case = candidate.case
        exact = min(exactness(case.decoder_precision), exactness(case.vision_precision))
        both = exactness(case.decoder_precision) + exactness(case.vision_precision)
        caps = [cap or float("inf") for cap in (case.max_pixels, case.max_tiles)]
        return exact, case.budget, both, *caps

    return max(candidates, key=rank)


def exactness(precision: str) -> int:
    """Bits of a weight, by the first number in the name of a precision or GGUF type; of a pair
    the lesser, of a name without a number 0."""
    numbers = [re.search(r"\d+", part) for part in precision.split("+")]
    return min(int(number.group()) if number else 0 for number in numbers)


def thinned(
    candidates: Sequence[Candidate], baseline: Candidate, most: int = MOST
) -> tuple[list[Candidate], str | None]:
    """At most about ``most`` candidates without the baseline, and what was left out, for people.

    Smaller pictures go first except with the baseline's precisions, then every second budget that
    is between others.
    """
    left = [one for one in dict.fromkeys(candidates) if one != baseline]
    whole = len(left)
    if len(left) > most:
        left = [
            one
            for one in left
            if _precisions(one) == _precisions(baseline) or _size(one) == _size(baseline)
        ]
    while len(left) > most:
        budgets = sorted({one.case.budget for one in left}, reverse=True)
        if len(budgets) <= 2:
            break
        dropped = set(budgets[1:-1:2])
        left = [one for one in left if one.case.budget not in dropped]
    if len(left) == whole:
        return left, None
    return left, (
        f"{len(left)} of {whole} combinations are tried: list budgets or precisions to try others"
    )


def _precisions(candidate: Candidate) -> tuple[str, ...]:
    case = candidate.case
    return case.decoder, case.decoder_precision, case.vision_precision


def _size(candidate: Candidate) -> tuple[int | None, int | None]:
    return candidate.case.max_pixels, candidate.case.max_tiles


def _caps(artifact: Artifact, name: str) -> list[int | None]:
    """The artifact's own cap, or the one that it was given, and halves of it; only its own where
    the layout has none of that kind."""
    given: int | None = getattr(artifact, name)
    layout = counting_layout(artifact)
    own = layout.caps.get(name)
    if own is None:
        return [given]
    return [given, *smaller_caps(given or own, layout.least_caps.get(name, 1))]


def smaller_caps(cap: int | None, least: int) -> list[int]:
    """Halves of a cap on pictures that are worth a try, none below ``least``; of None none."""
    halves = [(cap or 0) >> times for times in range(1, _SMALLER + 1)]
    return [half for half in halves if half >= max(1, least)]
