"""Replays of `pocketvlm tune` on the demo's recorded grid: ``PYTHONPATH=tools python -m
tune_replays``.

``record BUILD`` writes the grid again from the answers of ``python -m frontier``; ``run`` replays.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import click

from pocketvlm_measure.progress import progress
from pocketvlm_measure.table import Table
from pocketvlm_measure.tune.tuning import TuneLimits
from tune_replays.grid import DATA, read_grid, record
from tune_replays.replays import Outcome, replayed, useless

_LOSSES = (1.0, 2.0, 3.0, 5.0)


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command("record")
@click.argument("build", type=click.Path(path_type=Path, exists=True, file_okay=False))
def record_grid(build: Path) -> None:
    """Write tests/data/demo_grid.json from a build folder of the frontier."""
    click.echo(f"{DATA}: {record(build)} settings")


@main.command()
@click.option("--seeds", default=20, show_default=True, help="Replays of each row.")
@click.option("--questions", default=800, show_default=True, help="Taken of the 1,000 by each.")
@click.option("--every", default=1, show_default=True, help="Take every Nth setting.")
@click.option("--max-ttft", type=float, help="Limit in ms, where the unpruned model takes 1,000.")
@click.option("--shown", is_flag=True, help="See `pocketvlm tune --shown`.")
def run(seeds: int, questions: int, every: int, max_ttft: float | None, shown: bool) -> None:
    """Print how often a replay chooses within a point of the best, and what it saves."""
    grid = read_grid()
    settings = [grid[0], *grid[1::every], *useless(grid)]
    rows = []
    for loss in _LOSSES:
        limits = TuneLimits(loss, max_ttft, time=1e9, shown=shown)
        outcomes = [
            replayed(settings, seed, limits, questions)
            for seed in progress(range(seeds), desc=f"max-loss {loss:g}")
        ]
        rows.append(_row(loss, outcomes))
    head = [
        "max-loss", "within a point", "holds", "cheap", "limits kept", "useless", "shown",
        "answers saved", "false decisions",
    ]  # fmt: skip
    title = f"{len(settings)} settings, {questions} questions, {seeds} seeds:"
    click.echo(Table(title, head, rows).text())


def _row(loss: float, outcomes: list[Outcome]) -> list[str]:
    planted = sum(one.chosen is not None and "planted" in one.chosen.setting for one in outcomes)
    sure = sum(one.tuning.chosen is not None and one.tuning.chosen.verdict == "holds"
               for one in outcomes)  # fmt: skip
    return [
        f"{loss:g}",
        *(
            f"{sum(kept) / len(outcomes):.2f}"
            for kept in zip(*((o.good, o.holds, o.cheap, o.within) for o in outcomes), strict=True)
        ),
        str(planted),
        f"{sure / len(outcomes):.2f}",
        f"{fmean(one.saved for one in outcomes):.2f}",
        f"{fmean(one.false for one in outcomes):.2f}",
    ]


if __name__ == "__main__":
    main()
