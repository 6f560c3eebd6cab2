"""Checks the word list and the length of sentences: ``PYTHONPATH=tools python -m prose``.

Exits with 1 and a line for each place. ``--long`` lists every sentence over the limit too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from prose.limits import LONG, Limit, sentences
from prose.passages import Passage, page, program
from prose.words import Word, misused, read_words

ROOT = Path(__file__).parents[2]
_GLOBS = ("*.md", "docs/*.md", "clients/*/**/README.md", "exporter/**/README.md", "tools/**/*.md")
PAGES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in {file for glob in _GLOBS for file in ROOT.glob(glob)}
    if not {"node_modules", "build"} & set(file.parts)
)
PACKAGES = ("exporter", "runtime", "profiles", "plugins", "examples", "tools")
LIST = "CONTRIBUTING.md"
LIMIT = Limit(share=0.05, longest=40)  # of a page, and of a package


@click.command(help=__doc__)
@click.option("--long", "lists_all", is_flag=True, help="List sentences that the limits allow too.")
def main(lists_all: bool) -> None:
    """Check all of them."""
    words = read_words(ROOT / LIST)
    faults: list[str] = []
    for name in PAGES:
        passages = list(page(ROOT / name))
        if name == LIST:  # whose table would be all faults
            passages = [passage for passage in passages if passage.sentences]
        faults += check(name, passages, words, LIMIT, lists_all)
    for name in PACKAGES:
        files = sorted((ROOT / name).rglob("*.py"))
        passages = [passage for file in files for passage in program(file)]
        faults += check(name, passages, words, LIMIT, lists_all)
    for fault in faults:
        click.echo(fault)
    sys.exit(bool(faults))


def check(
    name: str, passages: Iterable[Passage], words: list[Word], limit: Limit, lists_all: bool
) -> list[str]:
    """Return a line for each fault of a page or a package."""
    passages = list(passages)
    faults = [
        f'{_place(passage)}: "{found}": write {instead}'
        for passage in passages
        for found, instead in misused(passage, words)
    ]
    counted = list(sentences(passages))
    long = [entry for entry in counted if entry[2] > LONG]
    share = len(long) / max(len(counted), 1)
    exceeds = share > limit.share
    if exceeds:
        faults.append(
            f"{name}: {len(long)} of {len(counted)} sentences have more than {LONG} words, "
            f"{share:.1%}; at most {limit.share:.0%} may"
        )
    faults += [
        f"{_place(passage)}: {count} words in a sentence: {text[:70]}"
        for passage, text, count in long
        if lists_all or exceeds or count > limit.longest
    ]
    return faults


def _place(passage: Passage) -> str:
    return f"{passage.file.relative_to(ROOT)}:{passage.line}"


if __name__ == "__main__":
    main()
