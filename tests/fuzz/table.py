"""The table of a run."""

from collections import Counter

from fuzz.harness import SOUND, Result

_COLUMNS = (
    "target",
    "inputs",
    "refused",
    "accepted",
    "findings",
    "seconds",
    "slowest s",
    "peak MB",
)
_WIDTHS = (12, 8, 8, 9, 9, 8, 10, 8)


def heading() -> str:
    return _row(_COLUMNS)


def line(result: Result, spent: float) -> str:
    """A target; ``spent`` are seconds of a processor with all that its workers did."""
    counts = result.counts
    kinds = " ".join(f"{kind} {n}" for kind, n in counts.items() if kind not in SOUND)
    cells = (result.target, counts.total(), counts["refused"], counts["accepted"],
    len(result.findings),
             f"{max(spent, result.seconds):.0f}", f"{result.slowest:.1f}",
             f"{result.peak_mb:.0f}")  # fmt: skip
    return f"{_row(cells)} {kinds}".rstrip()


def words(result: Result, most: int = 8) -> str:
    """One finding of each kind, and how to have it again."""
    kinds: Counter[str] = Counter()
    text = ""
    for number, outcome, said in result.findings:
        kind = f"{outcome} {said[:60]}"
        kinds[kind] += 1
        if kinds[kind] == 1 and len(kinds) <= most:
            text += f"\n{result.target} {number}: {outcome}: {said}\n"
    return text


def _row(cells: tuple[object, ...]) -> str:
    first, *rest = cells
    padded = [str(cell).rjust(width) for cell, width in zip(rest, _WIDTHS[1:], strict=True)]
    return " ".join([str(first).ljust(_WIDTHS[0]), *padded])
