"""Knows how the figures of one candidate read in a sentence: for the report, and for the reasons
in a target."""

from __future__ import annotations

from statistics import median

from pocketvlm_measure.table import compact, count
from pocketvlm_measure.tune.tuning import Evidence, Interval, Tuning


def baseline(tuning: Tuning) -> str:
    """What the others are compared with."""
    return "the baseline" if tuning.pruned else "the unpruned model"


def points(fraction: float) -> str:
    """A difference of figures in points of 100, signed: ``-1.5``."""
    return f"{100 * fraction:+.1f}"


def interval(figure: Interval) -> str:
    """Value with both ends, in points."""
    return f"{points(figure.value)} ({points(figure.low)} to {points(figure.high)})"


def share(figure: Interval) -> str:
    """Value with both ends, in per cent."""
    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def kept(evidence: Evidence, tuning: Tuning) -> str:
    """What a candidate keeps of the baseline's answers."""
    if evidence.candidate == tuning.baseline.candidate:
        return f"it is what the others are compared with, so no {tuning.figure} is lost"
    if evidence.difference is None:
        return f"{tuning.figure} was not measured"
    return (
        f"{tuning.figure} {interval(evidence.difference)} points against {baseline(tuning)} on "
        f"{count(evidence.questions, 'question')}; each end is wrong with a chance of at most "
        f"{100 * tuning.error_each:.2g} %"
    )


def time(evidence: Evidence, tuning: Tuning) -> str:
    """When its first token comes, and when the baseline's does."""
    if not evidence.ttft_ms:
        return "its time was not measured"
    own = (
        f"first token after {compact(median(evidence.ttft_ms))} ms "
        f"({compact(min(evidence.ttft_ms))}-{compact(max(evidence.ttft_ms))} in "
        f"{count(len(evidence.ttft_ms), 'run')})"
    )
    if evidence.candidate == tuning.baseline.candidate or evidence.ratio is None:
        return own
    before = compact(median(tuning.baseline.ttft_ms)) if tuning.baseline.ttft_ms else "unknown"
    return f"{own}, {evidence.ratio:.2f} of {baseline(tuning)}'s {before} ms in the same turns"


def memory(evidence: Evidence) -> str:
    """What its process took at its peak."""
    if not evidence.peak_bytes:
        return "peak memory is not counted on this system"
    return f"peak memory {max(evidence.peak_bytes) / 1e6:.0f} MB"


def limits(tuning: Tuning) -> str:
    """What was asked of the choice."""
    asked = tuning.limits
    parts = [f"at most {asked.max_loss:g} points less"]
    if asked.max_ttft is not None:
        parts.append(f"first token within {asked.max_ttft:g} ms")
    if asked.max_memory is not None:
        parts.append(f"at most {asked.max_memory:g} MB")
    return ", ".join(parts)
