"""Knows a tuning as text: a table of what was tried, a line for what was ruled out, the choice and
its commands."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pocketvlm.errors import RequestError
from pocketvlm_measure.spread import Spread
from pocketvlm_measure.table import Table, compact, count
from pocketvlm_measure.tune.judging import points
from pocketvlm_measure.tune.tuning import Candidate, Evidence, Interval, Tuning

_CAPS = ("max_pixels", "max_tiles")


def headline(tuning: Tuning, data: str) -> str:
    """What was asked for, in a line."""
    limits = tuning.limits
    wishes = [f"at most {limits.max_loss:g} points lost"]
    wishes += [f"first token within {limits.max_ttft:g} ms"] if limits.max_ttft is not None else []
    wishes += [f"at most {limits.max_memory:g} MB"] if limits.max_memory is not None else []
    return (
        f"{data}: {count(tuning.questions, 'question')} about "
        f"{count(tuning.pictures, 'picture')}; {', '.join(wishes)}"
    )


def table(tuning: Tuning) -> Table:
    """A row for each candidate, the fastest first, the baseline last."""
    rows = [_row(tuning, one) for one in (*tuning.evidence, tuning.baseline)]
    head = [
        "tokens",
        *_varying(tuning),
        "asked",
        f"{tuning.figure}, %",
        "difference, points",
        "first token, ms",
        "of the baseline's",
        "memory, MB",
        "verdict",
    ]
    title = f"{tuning.figure.capitalize()} with 95 % intervals, times as median (smallest-largest):"
    return Table(title, head, rows)


def ruled_out(tuning: Tuning) -> Iterator[str]:
    """A line for each candidate that is not chosen, with the reason."""
    for one in tuning.evidence:
        if tuning.chosen is None or one.candidate != tuning.chosen.candidate:
            yield f"{name(tuning, one.candidate)}: {one.verdict}: {one.reason}"


def outcome(tuning: Tuning) -> Iterator[str]:
    """The choice, how sure it is, what would be sure, and the command that uses it."""
    yield from tuning.notes
    if tuning.time_up:
        yield f"the time was up after {tuning.seconds:.0f} s: go on with --resume and more --time"
    yield (
        f"decisions (holds, loses more) are wrong with a chance of at most "
        f"{100 * tuning.limits.error:g} % over all candidates together, each end of a difference's "
        f"interval with {100 * tuning.error_each:.2g} %"
    )
    chosen = tuning.chosen
    if chosen is None:
        return
    yield f"chosen: {name(tuning, chosen.candidate)}{_ratio(chosen)}; {_sure(tuning, chosen)}"
    shown = tuning.shown
    if shown is not None and shown.candidate != chosen.candidate:
        what = "the baseline, " if shown.verdict == "baseline" else ""
        yield f"shown to hold: {what}{name(tuning, shown.candidate)}{_ratio(shown)}; see --shown"
    yield f"use it: {command(chosen.candidate)}"


def _sure(tuning: Tuning, chosen: Evidence) -> str:
    """Whether the choice is shown, or what would show it."""
    if chosen.verdict == "baseline":
        return "nothing that is faster keeps to the limits"
    if chosen.verdict == "holds":
        return chosen.reason
    return (
        f"not shown: {chosen.reason}; the set has {tuning.questions}, and the estimate is within "
        f"{tuning.limits.max_loss:g} points"
    )


def command(candidate: Candidate) -> str:
    """The command line that answers as a candidate does."""
    case = candidate.case
    options: dict[str, Any] = {
        "--budget": case.budget,
        "--decoder": case.decoder,
        "--decoder-precision": case.decoder_precision,
        "--vision-precision": case.vision_precision,
        "--threads": case.threads,
        "--max-pixels": case.max_pixels,
        "--max-tiles": case.max_tiles,
    }
    words = [f"{option} {value}" for option, value in options.items() if value is not None]
    words += [f"--provider {shlex.quote(provider)}" for provider in case.providers]
    folder = shlex.quote(str(_near(Path(candidate.folder))))
    return f"pocketvlm run {folder} {' '.join(words)} --image PICTURE --prompt QUESTION"


def refusal(tuning: Tuning) -> RequestError:
    """Of a tuning in which nothing keeps to the limits: the nearest, and by how much it fails."""
    nearest = tuning.nearest
    if nearest is None:
        return RequestError(
            "the time was up before any candidate was known to keep to the limits",
            advice="go on with --resume and more --time",
        )
    return RequestError(
        "nothing keeps to the limits: the nearest is "
        f"{name(tuning, nearest.candidate)}, which {_failing(tuning, nearest)}",
        advice="allow more, or export smaller budgets or precisions",
    )


def _failing(tuning: Tuning, nearest: Evidence) -> str:
    if nearest.difference is None or nearest.verdict == "over a limit":
        return nearest.reason
    loss = -100 * nearest.difference.value
    return (
        f"loses {loss:.1f} points, {loss - tuning.limits.max_loss:.1f} more than "
        f"--max-loss {tuning.limits.max_loss:g}"
    )


def to_dict(tuning: Tuning) -> dict[str, Any]:
    """What ``--json`` prints; the command of the choice is None where there is none."""
    chosen, shown = (None if one is None else _names(one) for one in (tuning.chosen, tuning.shown))
    return {
        "limits": dataclasses.asdict(tuning.limits),
        "figure": tuning.figure,
        "questions": tuning.questions,
        "pictures": tuning.pictures,
        "answers": tuning.answers,
        "error_each": tuning.error_each,
        "seconds": round(tuning.seconds, 1),
        "time_up": tuning.time_up,
        "notes": list(tuning.notes),
        "baseline": evidence_dict(tuning.baseline),
        "candidates": [evidence_dict(one) for one in tuning.evidence],
        "chosen": chosen,
        "shown": shown,
        "command": None if tuning.chosen is None else command(tuning.chosen.candidate),
    }


def evidence_dict(evidence: Evidence) -> dict[str, Any]:
    """One candidate's evidence as JSON values."""
    return {
        **_names(evidence),
        "verdict": evidence.verdict,
        "reason": evidence.reason,
        "questions": evidence.questions,
        "accuracy": evidence.accuracy and dataclasses.asdict(evidence.accuracy),
        "difference": evidence.difference and dataclasses.asdict(evidence.difference),
        "ttft_ms": list(evidence.ttft_ms),
        "ratios": [round(ratio, 4) for ratio in evidence.ratios],
        "ratio": evidence.ratio,
        "peak_bytes": list(evidence.peak_bytes),
        "needed": evidence.needed,
        "excess": evidence.excess,
    }


def _names(evidence: Evidence) -> dict[str, Any]:
    candidate = evidence.candidate
    return {
        "folder": candidate.folder,
        "made_by": [list(pair) for pair in candidate.made_by],
        **dataclasses.asdict(candidate.case),
    }


def name(tuning: Tuning, candidate: Candidate) -> str:
    """A candidate by what tells it from the others."""
    parts = [part for part in _parts(candidate, list(_varying(tuning))) if part]
    return ", ".join([count(candidate.case.budget, "token"), *parts])


def _varying(tuning: Tuning) -> list[str]:
    """The parts in which candidates differ, beside their tokens."""
    every = [one.candidate for one in (tuning.baseline, *tuning.evidence)]
    parts = ("artifact", "decoder", "its precision", "vision", *_CAPS)
    return [part for part in parts if len({_part(one, part) for one in every}) > 1]


def _parts(candidate: Candidate, parts: Sequence[str]) -> list[str]:
    words = {"vision": "vision ", "max_pixels": "max-pixels ", "max_tiles": "max-tiles "}
    values = {part: _part(candidate, part) for part in parts}
    return [f"{words.get(part, '')}{value}" if value else "" for part, value in values.items()]


def _part(candidate: Candidate, part: str) -> str:
    case = candidate.case
    made = " ".join(word for pair in candidate.made_by for word in pair)
    values: dict[str, Any] = {
        "artifact": made or Path(candidate.folder).name,
        "decoder": case.decoder,
        "its precision": case.decoder_precision,
        "vision": case.vision_precision,
        "max_pixels": case.max_pixels,
        "max_tiles": case.max_tiles,
    }
    value = values[part]
    return "" if value is None else str(value)


def _row(tuning: Tuning, one: Evidence) -> list[str]:
    difference = "" if one.difference is None else points(one.difference).replace(" points", "")
    return [
        str(one.candidate.case.budget),
        *(_part(one.candidate, part) for part in _varying(tuning)),
        str(one.questions or ""),
        "" if one.accuracy is None else _percent(one.accuracy),
        difference,
        str(Spread(one.ttft_ms)) if one.ttft_ms else "",
        "" if one.ratio is None else compact(one.ratio),
        f"{max(one.peak_bytes) / 1e6:.0f}" if one.peak_bytes else "",
        one.verdict,
    ]


def _percent(figure: Interval) -> str:
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def _ratio(one: Evidence) -> str:
    if one.ratio is None or one.verdict == "baseline":
        return ""
    return f", first token in {compact(one.ratio)} of the baseline's time"


def _near(folder: Path) -> Path:
    """The folder from here, where that is shorter to write."""
    try:
        return folder.relative_to(Path.cwd())
    except ValueError:
        return folder
