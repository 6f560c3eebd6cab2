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
from pocketvlm_measure.tune.timing import TURNS
from pocketvlm_measure.tune.tuning import Candidate, Evidence, Interval, Tuning

_COMPARED = ("holds", "likely holds", "loses more", "likely loses more")
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
        f"difference, points [{_sureness(tuning)}]",
        "first token, ms",
        "of the baseline's",
        "memory, MB",
        "verdict",
    ]
    spread = any(len(one.ttft_ms) > 1 for one in (tuning.baseline, *tuning.evidence))
    times = "median (smallest-largest)" if spread else "one run each"
    title = f"{tuning.figure.capitalize()} with 95 % intervals, times as {times}:"
    return Table(title, head, rows)


def ruled_out(tuning: Tuning) -> Iterator[str]:
    """A line for each candidate that is not chosen, with the reason; one for all that were not
    reached."""
    for one in tuning.evidence:
        if one is not tuning.chosen and one.verdict != "not reached":
            yield f"{name(tuning, one.candidate)}: {one.verdict}: {one.reason}"
    if late := [one for one in tuning.evidence if one.verdict == "not reached"]:
        yield f"{len(late)} not reached: the time was up before they were timed or asked"


def choice(tuning: Tuning) -> Iterator[str]:
    """What was chosen, how sure it is and the command that uses it, or why nothing was."""
    if lacking := _lacking(tuning):
        yield f"no choice made: {lacking}"
        if one := _without_loss(tuning):
            yield f"fastest without a measured loss: {name(tuning, one.candidate)}{_ratio(one)}"
    chosen = tuning.chosen
    if chosen is None:
        return
    word = "until then the baseline" if lacking else "chosen"
    sure = "" if lacking else f"; {_sure(tuning, chosen)}"
    yield f"{word}: {name(tuning, chosen.candidate)}{_ratio(chosen)}{sure}"
    shown = tuning.shown
    if shown is not None and shown.candidate != chosen.candidate:
        what = "the baseline, " if shown.verdict == "baseline" else ""
        yield f"shown to hold: {what}{name(tuning, shown.candidate)}{_ratio(shown)}; see --shown"
    yield f"use it: {command(chosen.candidate)}"


def outcome(tuning: Tuning) -> Iterator[str]:
    """What else to know: why it stopped, how many turns were timed, what error is stated."""
    yield from tuning.notes
    if tuning.time_up:
        yield _stopped(tuning)
    turns = len(tuning.baseline.ttft_ms)
    if turns == 1 < TURNS:
        yield f"1 turn of {TURNS} done; one run each, no spread"
    yield (
        f"decisions (holds, loses more) are wrong with a chance of at most "
        f"{100 * tuning.limits.error:g} % over all candidates together, each end of a difference's "
        f"interval with {100 * tuning.error_each:.2g} %"
    )


def _lacking(tuning: Tuning) -> str:
    """What evidence lacks where it is why nothing faster than the baseline is chosen; else
    nothing."""
    picked, verdicts = tuning.chosen, {one.verdict for one in tuning.evidence}
    lacks = verdicts & {"not reached", "undecided"}
    if tuning.baseline.verdict != "baseline" or not lacks:
        return ""
    if picked is not None and (picked.verdict != "baseline" or verdicts & set(_COMPARED)):
        return ""
    late = [one for one in tuning.evidence if one.verdict == "not reached"]
    untimed, unasked = (sum(bool(one.ttft_ms) is timed for one in late) for timed in (False, True))
    every = len(tuning.evidence)
    parts = [f"{untimed} of {count(every, 'setting')} were not timed"] if untimed else []
    parts += [f"{unasked} of {count(every, 'setting')} were not asked"] if unasked else []
    if "undecided" in verdicts:
        asked = f"{count(tuning.questions, 'question')} about {count(tuning.pictures, 'picture')}"
        parts.append(f"{asked} are too few{' for the rest' if parts else ''}")
    return ", and ".join(parts)


def _without_loss(tuning: Tuning) -> Evidence | None:
    """The fastest that was asked and answered as well as the baseline."""
    asked = (one for one in tuning.evidence if one.verdict == "undecided")
    return next((one for one in asked if one.difference and one.difference.value >= 0), None)


def _stopped(tuning: Tuning) -> str:
    seconds, limit = tuning.seconds, duration(tuning.limits.time)
    late = sum(not one.ttft_ms and one.verdict == "not reached" for one in tuning.evidence)
    what = f"timing the other {late}" if late else "what comes next"
    if seconds >= tuning.limits.time:
        why = f"the time was up after {seconds:.0f} s of {limit}"
    else:
        why = f"stopped at {seconds:.0f} s: {what} would not fit in {limit}"
    return f"{why}: continue with --resume and more --time"


def duration(seconds: float) -> str:
    """As ``--time`` takes it: ``90s``, ``10m``."""
    whole = max(1, round(seconds))
    return f"{whole}s" if whole % 60 else f"{whole // 60}m"


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
    if nearest is None or _lacking(tuning):
        return RequestError(
            f"no choice made: {_lacking(tuning) or 'the time was up before anything was compared'}",
            advice="continue with --resume and more --time",
        )
    timed = sum(bool(one.ttft_ms) for one in (tuning.baseline, *tuning.evidence))
    return RequestError(
        f"nothing keeps to the limits: the nearest of {timed} timed is "
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
    parts = ("artifact", "decoder", "decoder precision", "vision", *_CAPS)
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
        "decoder precision": case.decoder_precision,
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
        _times(one.ttft_ms),
        "" if one.ratio is None else compact(one.ratio),
        f"{max(one.peak_bytes) / 1e6:.0f}" if one.peak_bytes else "",
        one.verdict,
    ]


def _times(samples: Sequence[float]) -> str:
    return f"{samples[0]:.1f}" if len(samples) == 1 else str(Spread(samples)) if samples else ""


def _sureness(tuning: Tuning) -> str:
    """What a difference's interval is."""
    return f"each end {100 * (1 - tuning.limits.error):g} % over all candidates together"


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
