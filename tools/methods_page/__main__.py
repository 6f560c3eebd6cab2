"""The tables of docs/methods.md: ``PYTHONPATH=tools python -m methods_page``.

The field is `methods_page.field` and `methods_page.elsewhere`; the demo's figures are those of
docs/data/demo-accuracy.json, which `make figures` measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import click

from methods_page.elsewhere import ELSEWHERE
from methods_page.field import PRUNERS, STAGES
from methods_page.stated import SOURCES, Method
from page_section import replace_section

BUDGETS = ("36", "14", "7")  # of the demo's 144 tokens
Figures = Mapping[str, Mapping[str, Sequence[float]]]
_PATH = click.Path(path_type=Path)

_FIGURES = Path("docs/data/demo-accuracy.json")


@click.command(help=__doc__)
@click.option("--page", type=_PATH, default=Path("docs/methods.md"), show_default=True)
@click.option(
    "--figures", type=_PATH, default=Path("docs/data/demo-accuracy.json"), show_default=True
)
def main(page: Path, figures: Path) -> None:
    """Write them."""
    for name, text in sections(json.loads(figures.read_text())["methods"]).items():
        replace_section(page, name, text)


def sections(figures: Figures) -> dict[str, str]:
    """{section of the page: its text}."""
    return {
        "pruners": _here(PRUNERS, figures),
        "stages": _here(STAGES, figures),
        "elsewhere": _elsewhere(),
        "sources": "\n".join(f"- ({letter}) {text}." for letter, text in SOURCES.items()),
    }


def _here(methods: Sequence[Method], figures: Figures) -> str:
    """What PocketVLM has, the demo's figures beside the published ones."""
    nested = any(method.nested is not None for method in methods)
    head = ["method", "appeared", "chooses by", "drops", *(["nested"] if nested else [])]
    head += ["in PocketVLM", "published, LLaVA-1.5-7B", _demo_head(figures)]
    rows = []
    for method in methods:
        row = [_linked(method), method.venue, method.reads, method.drops]
        row += [{True: "yes", False: "no", None: ""}[method.nested]] if nested else []
        rows.append([*row, method.here, _published(method), _demo(method, figures)])
    return _table(head, rows)


def _elsewhere() -> str:
    head = ["method", "appeared", "chooses by", "drops", "trained", "published", "not here because"]
    rows = [
        [
            _linked(method),
            method.venue,
            method.reads,
            method.drops,
            "yes" if method.trained else "",
            _published(method),
            method.here,
        ]
        for method in ELSEWHERE
    ]
    return _table(head, rows)


def _linked(method: Method) -> str:
    return f"[{_escaped(method.title)}]({method.link})" if method.link else method.title


def _escaped(title: str) -> str:
    return title.replace("[", r"\[").replace("]", r"\]")


def _published(method: Method) -> str:
    return "; ".join([*map(str, method.published), *([method.remark] if method.remark else [])])


def _demo(method: Method, figures: Figures) -> str:
    """Exact match in per cent at each of `BUDGETS`, of several draws the mean; empty where it was
    not measured."""
    by_budget = figures.get(method.figures, {})
    if not set(BUDGETS) <= set(by_budget):
        return ""
    return "/".join(f"{fmean(by_budget[budget]):.1f}" for budget in BUDGETS)


def _demo_head(figures: Figures) -> str:
    """What the demo's column says, with what the demo answers where nothing is dropped."""
    whole = max((budget for budgets in figures.values() for budget in budgets), key=int)
    unpruned = next(budgets[whole] for budgets in figures.values() if whole in budgets)
    return f"demo, {'/'.join(BUDGETS)} of {whole} (all: {fmean(unpruned):.1f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    main()
