"""Knows whether replayed tunings choose well: against what the whole grid shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pocketvlm_measure.tune.search import tune
from pocketvlm_measure.tune.tuning import TuneLimits, Tuning
from tune_replays.grid import Recorded
from tune_replays.replay import TTFT_MS, Replay

POINT = 0.01
_ROUNDING = 1e-9
_SPREAD = 1.1  # the slowest of a few runs, by the cost: over three of `Replay`'s deviations


@dataclass(frozen=True)
class Outcome:
    """One replay.

    Attributes:
        tuning: its result.
        chosen: what was chosen; None for nothing.
        holds: the chosen one loses at most ``max_loss`` and a point on the whole grid.
        cheap: it costs no more than the cheapest within the limits that loses at most ``max_loss``
            less a point: what a tuning that errs by a point at most may choose.
        within: no limit of time is broken by the chosen one, by what it costs or by any run.
        saved: share of the answers that early stopping saved: of those that all candidates which
            keep to the limits would have given.
        false: whether a decision on accuracy is wrong by the whole grid. The grid is itself a
            sample, so its own differences are not the true ones.
    """

    tuning: Tuning
    chosen: Recorded | None
    holds: bool
    cheap: bool
    within: bool
    saved: float
    false: bool

    @property
    def good(self) -> bool:
        """Within a point of the best, with no limit broken."""
        return self.holds and self.cheap and self.within


def replayed(
    settings: Sequence[Recorded], seed: int, limits: TuneLimits, questions: int | None = None
) -> Outcome:
    """Replay one tuning and judge it; see `Replay`."""
    source = Replay(settings, seed, questions=questions)
    tuning = tune(source, limits)
    chosen = None if tuning.chosen is None else source.settings[tuning.chosen.candidate]
    most = limits.max_ttft or float("inf")
    able = [one for one in settings if one.cost * TTFT_MS * _SPREAD <= most]
    baseline = settings[0].accuracy

    def keeps(one: Recorded, slack: float) -> bool:
        return baseline - one.accuracy <= limits.loss + slack + _ROUNDING

    best = min((one.cost for one in able if keeps(one, -POINT)), default=float("inf"))
    holds = cheap = chosen is None and best == float("inf")
    within = True
    if chosen is not None and tuning.chosen is not None:
        holds, cheap = keeps(chosen, POINT), chosen.cost <= best + _ROUNDING
        within = max(chosen.cost * TTFT_MS, *tuning.chosen.ttft_ms) <= most
    raced = sum(one.verdict not in ("over a limit", "refused") for one in tuning.evidence) + 1
    saved = 1 - tuning.answers / (raced * tuning.questions)
    false = any(
        one.verdict in ("holds", "loses more")
        and keeps(source.settings[one.candidate], 0.0) != (one.verdict == "holds")
        for one in tuning.evidence
    )
    return Outcome(tuning, chosen, holds, cheap, within, saved, false)


def useless(settings: Sequence[Recorded], seed: int = 0) -> list[Recorded]:
    """Options that nobody should choose: slower and less accurate than another, and as fast as the
    cheapest but answering by chance."""
    good = min(settings, key=lambda one: abs(one.cost - 0.6))
    right = good.right.copy()
    right[np.flatnonzero(right)[::20]] = False  # five in a hundred fewer
    chance = np.random.default_rng(seed).random(len(right)) < 0.3
    cheapest = min(settings, key=lambda one: one.cost)
    return [
        replace(good, setting="planted-worse", cost=good.cost * 1.1, right=right),
        replace(cheapest, setting="planted-chance", right=chance),
    ]
