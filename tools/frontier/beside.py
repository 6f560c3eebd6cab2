"""Two checkpoints' frontiers beside each other: ``PYTHONPATH=tools python -m frontier.beside
FIRST.json SECOND.json``.

What each method keeps of the unpruned model's accuracy at the same shares of visual tokens, and how
far the two rank the methods alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from scipy.stats import spearmanr

from frontier import points
from frontier.plot import COLOURS
from page_section import replace_section
from pocketvlm.files import replace_file
from pocketvlm_measure.reports.plots import to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_PATH = click.Path(path_type=Path)
DRAWN = (  # one of each kind: two dozen lines would be a tangle
    "SCOPE",
    "DivPrune",
    "VisionZip",
    "FasterVLM",
    "Received attention",
    "Evenly spaced",
)
# (method, share of tokens in per cent) -> part of the accuracy.
Kept = Mapping[tuple[str, int], float]


@click.command(help=__doc__)
@click.argument("files", type=_FILE, nargs=2)
@click.option("--names", nargs=2, default=("first", "second"), help="Of the two, for people.")
@click.option("--page", type=_PATH, help="Write the table between this file's markers.")
@click.option("--section", default="beside", show_default=True, help="Which markers.")
@click.option("--plot", type=_PATH, help="Draw some of the methods, as SVG.")
def main(
    files: tuple[Path, Path],
    names: tuple[str, str],
    page: Path | None,
    section: str,
    plot: Path | None,
) -> None:
    """Print, and write where asked."""
    both = [kept(points.load(path)) for path in files]
    text = beside(both, names)
    click.echo(text)
    if plot:
        replace_file(plot, draw(both, names))
    if page:
        replace_section(page, section, text)


def kept(of: Sequence[points.Point]) -> Kept:
    """Accuracy by method and share of tokens, as a part of the unpruned model's; those without
    stages."""
    (whole,) = {one.exact.value for one in of if not one.stages and one.budget == one.tokens}
    return {
        (one.method, round(100 * one.budget / one.tokens)): one.exact.value / whole
        for one in of
        if not one.stages and one.budget < one.tokens
    }


def beside(both: Sequence[Kept], names: Sequence[str]) -> str:
    """Markdown: a row a method that both have, the best on the first at the fewest tokens on top;
    per cent kept at every share that both have; below, how far the ranks agree."""
    first, second = both
    cells = set(first) & set(second)
    shares = sorted({share for _, share in cells}, reverse=True)
    methods = [
        method
        for method in dict.fromkeys(method for method, _ in first)
        if all((method, share) in cells for share in shares)
    ]
    methods.sort(key=lambda method: -first[method, shares[-1]])
    head = [f"{name}, {share} %" for share in shares for name in names]
    lines = [f"| method | {' | '.join(head)} |", f"|---|{'---|' * len(head)}"]
    for method in methods:
        row = [f"{100 * one[method, share]:.1f}" for share in shares for one in both]
        lines.append(f"| {method} | {' | '.join(row)} |")
    agreed = []
    for share in shares:
        ranks = spearmanr(*([one[method, share] for method in methods] for one in both))
        agreed.append(f"{ranks.statistic:.2f} at {share} %")
    lines += [
        "",
        f"Spearman's rank correlation of the {len(methods)} methods between the two: "
        f"{', '.join(agreed)} of the tokens.",
    ]
    return "\n".join(lines)


def draw(both: Sequence[Kept], names: Sequence[str]) -> bytes:
    """An SVG file: accuracy kept against the share of tokens, the first model dashed."""

    def paint(axes: Axes) -> None:
        for method, colour in zip(DRAWN, COLOURS, strict=False):
            for one, name, dashes in zip(both, names, ("--", "-"), strict=True):
                shares = sorted(share for drawn, share in one if drawn == method)
                if shares:
                    axes.plot(
                        shares,
                        [100 * one[method, share] for share in shares],
                        dashes,
                        color=colour,
                        marker="o",
                        markersize=3.5,
                        linewidth=1.2,
                        label=f"{method}, {name}",
                    )
        axes.set_xscale("log")
        axes.set_xticks(every := sorted({share for _, share in both[0]}), map(str, every))
        axes.minorticks_off()
        axes.set_xlabel("visual tokens kept, %")
        axes.set_ylabel("of the unpruned model's exact match, %")
        axes.grid(alpha=0.25)
        axes.legend(ncols=2, frameon=False, fontsize=7)

    return to_svg(paint, height=4.4)


if __name__ == "__main__":
    main()
