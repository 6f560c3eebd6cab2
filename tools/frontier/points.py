"""Knows the points of the frontier: what each setting answers at each budget and when its first
token comes; and which of them no other beats."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from frontier.accuracy import Accuracy
from frontier.settings import Dimensions, Setting, scaled_tokens
from frontier.timing import Stopwatch
from pocketvlm.files import replace_file
from pocketvlm_measure.evaluation.statistics import Estimate
from pocketvlm_measure.evaluation.tables import chance, percent
from pocketvlm_measure.progress import progress
from pocketvlm_measure.spread import Spread


@dataclass(frozen=True)
class Point:
    """A setting at a budget.

    Attributes:
        name: of the setting.
        method, stages: for people.
        budget, tokens: visual tokens kept, and all of the checkpoint's.
        exact: exact match, 0 to 1, with its interval.
        p: of McNemar's test against the same method at the same budget without stages; None for
            that itself.
        first_token: of the unpruned time to first token; None where it was not measured.
    """

    name: str
    method: str
    stages: str
    budget: int
    tokens: int
    exact: Estimate
    p: float | None
    first_token: float | None = None


def graph_budget(budget: int, tokens: int, nested: bool) -> int:
    """The budget of the graph that serves ``budget`` of ``tokens``: where budgets are nested that
    of a quarter serves all below, as in an artifact with the default one, and more have one of
    their own."""
    return max(budget, round(tokens / 4)) if nested else budget


@dataclass(frozen=True)
class Parts:
    """What the time to a result's first token is made of, at the dimensions of real models.

    Attributes:
        vision, budget: whose vision graph, and for how many tokens.
        decoder, visual: whose decoder graph, and how many visual tokens it is given.
    """

    vision: Setting
    budget: int
    decoder: Setting
    visual: int


def parts(result: Accuracy, here: Dimensions, there: Dimensions, whole: Setting) -> Parts:
    """Those of a result; ``whole`` is the unpruned setting."""
    setting = result.setting.scaled(here, there)
    visual = scaled_tokens(result.budget, here, there)
    decoder = replace(whole, decoder=setting.decoder)
    if result.setting.pruner == whole.pruner:
        tokens = there.tokens_at(setting.image_size)
        return Parts(replace(whole, image_size=setting.image_size), tokens, decoder, tokens)
    own = here.tokens_at(result.setting.image_size)
    graph = graph_budget(result.budget, own, result.setting.nested)
    graph = min([graph, *(stage.keep for stage in result.setting.tower)])
    vision = replace(setting, decoder=())
    return Parts(vision, scaled_tokens(graph, here, there), decoder, visual)


def timed(
    results: Sequence[Accuracy], of: Sequence[Parts], watch: Stopwatch, here: Dimensions
) -> list[Point]:
    """Each result with the time to its first token: the two parts by their ratios, weighted with
    what they take unpruned over all that was measured."""
    pairs = [
        (watch.before_decoder(one.vision, one.budget), watch.prefill(one.decoder, one.visual))
        for one in progress(of, desc="taking times", unit="point")
    ]
    vision_ms = Spread([one.unpruned_ms for one, _ in pairs]).median
    prefill_ms = Spread([other.unpruned_ms for _, other in pairs]).median
    whole = vision_ms + prefill_ms
    return [
        point(result, here, (one.ratio * vision_ms + other.ratio * prefill_ms) / whole)
        for result, (one, other) in zip(results, pairs, strict=True)
    ]


def point(result: Accuracy, here: Dimensions, first_token: float | None = None) -> Point:
    """A result as a point."""
    return Point(
        result.setting.name,
        result.setting.title,
        result.setting.stages,
        result.budget,
        here.tokens,
        result.exact,
        result.change.p if result.change else None,
        first_token,
    )


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that none beats in time and in accuracy at once, the fastest first."""
    frontier: list[Point] = []
    timed = [one for one in points if one.first_token is not None]
    for one in sorted(timed, key=lambda one: (one.first_token, -one.exact.value)):
        if not frontier or one.exact.value > frontier[-1].exact.value:
            frontier.append(one)
    return frontier


def save(path: Path, points: Sequence[Point], about: Mapping[str, Any]) -> None:
    """Write the points as JSON, with what they are about."""
    data = {**about, "points": [asdict(one) for one in points]}
    replace_file(path, f"{json.dumps(data, indent=1)}\n".encode())


def load(path: Path) -> list[Point]:
    """Read what `save` wrote."""
    data = json.loads(path.read_text())
    return [Point(**{**one, "exact": Estimate(**one["exact"])}) for one in data["points"]]


def table(points: Sequence[Point]) -> str:
    """Markdown: a row per setting, a column per budget: exact match with its interval, and the time
    to first token. What lies on the frontier is bold."""
    best = set(pareto(points))
    budgets = sorted({one.budget for one in points}, reverse=True)
    rows: dict[tuple[str, str], dict[int, Point]] = {}
    for one in points:
        rows.setdefault((one.method, one.stages), {})[one.budget] = one
    head = [f"{budget / points[0].tokens:.0%} ({budget})" for budget in budgets]
    lines = [f"| method | stages | {' | '.join(head)} |", f"|---|---|{'---|' * len(budgets)}"]
    for (method, stages), by_budget in rows.items():
        cells = [_cell(by_budget.get(budget), best) for budget in budgets]
        lines.append(f"| {method} | {stages} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(one: Point | None, best: Collection[Point]) -> str:
    if one is None:
        return ""
    text = percent(one.exact)
    if one.p is not None:
        text += f" ({chance(one.p)})"
    if one.first_token is not None:
        text += f", {one.first_token:.2f}x"
    return f"**{text}**" if one in best else text
