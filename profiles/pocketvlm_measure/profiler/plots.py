"""Knows how a profile is drawn: each plot as an SVG file's bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pocketvlm_measure.profiler.result import Profile, Result
from pocketvlm_measure.reports.plots import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The stages of an answer, in order; selection is taken out of vision, which contains it.
_PARTS = ("preprocess", "vision", "select", "embed", "prefill", "decode")


def stacked_stages(profile: Profile) -> bytes:
    """A bar per configuration: the medians of an answer's stages."""

    def draw(axes: Axes) -> None:
        results = list(reversed(profile.results))
        labels = [_label(profile, result) for result in results]
        left = [0.0] * len(results)
        for part in _PARTS:
            widths = [_part(result, part) for result in results]
            axes.barh(labels, widths, left=left, label=part)
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axes.set_xlabel("milliseconds, medians")
        axes.figure.legend(ncols=len(_PARTS), loc="outside upper center", frameon=False)

    return to_svg(draw, height=1.4 + 0.4 * len(profile.results))


def first_token(profile: Profile) -> bytes:
    """Time to first token against the budget: the median, every sample, smallest to largest."""

    def draw(axes: Axes) -> None:
        for name, budgets, results in _families(profile):
            spreads = [result.stages["ttft"] for result in results]
            (line,) = axes.plot(
                budgets, [spread.median for spread in spreads], marker="o", label=name
            )
            low, high = ([pick(s.samples) for s in spreads] for pick in (min, max))
            axes.fill_between(budgets, low, high, alpha=0.2, color=line.get_color())
            for budget, spread in zip(budgets, spreads, strict=True):
                axes.plot(
                    [budget] * len(spread.samples),
                    spread.samples,
                    ".",
                    color=line.get_color(),
                    alpha=0.5,
                )
        axes.set_ylabel("time to first token, ms")
        _against_budgets(axes, profile)

    return to_svg(draw)


def peak_memory(profile: Profile) -> bytes | None:
    """Peak memory of a process against the budget; None where the system does not count it."""
    if any(result.peak_bytes is None for result in profile.results):
        return None

    def draw(axes: Axes) -> None:
        for name, budgets, results in _families(profile):
            peaks = [result.peak_bytes.median / 1e6 for result in results if result.peak_bytes]
            axes.plot(budgets, peaks, marker="o", label=name)
        axes.set_ylabel("peak memory, MB")
        _against_budgets(axes, profile)

    return to_svg(draw)


def decode_rate(profile: Profile) -> bytes | None:
    """Tokens per second after the first against the budget; None where only one was generated."""
    if any(result.decode_rate is None for result in profile.results):
        return None

    def draw(axes: Axes) -> None:
        for name, budgets, results in _families(profile):
            axes.plot(
                budgets, [result.decode_rate or 0.0 for result in results], marker="o", label=name
            )
        axes.set_ylabel("decode, tokens/s")
        _against_budgets(axes, profile)

    return to_svg(draw)


def _family(profile: Profile, result: Result) -> str:
    """The parts in which a result differs from others of the same budget."""
    return " ".join(str(result.case.family[part]) for part in profile.varying)


def _label(profile: Profile, result: Result) -> str:
    return f"{result.case.budget} tokens {_family(profile, result)}".strip()


def _part(result: Result, part: str) -> float:
    stages = result.stages
    if part == "select":
        return stages["vision"].median * (result.select_share or 0.0)
    return stages[part].median - (_part(result, "select") if part == "vision" else 0.0)


def _families(profile: Profile) -> Iterator[tuple[str, list[int], list[Result]]]:
    """(name, budgets, results) of each line: configurations that differ in their budgets only."""
    by_family: dict[tuple[Any, ...], list[Result]] = {}
    for result in profile.results:
        by_family.setdefault(result.case.family, []).append(result)
    for results in by_family.values():
        results.sort(key=lambda result: result.case.budget)
        yield _family(profile, results[0]), [result.case.budget for result in results], results


def _against_budgets(axes: Axes, profile: Profile) -> None:
    axes.set_xlabel("visual tokens kept per picture or tile")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if profile.varying:
        axes.legend(frameon=False)
