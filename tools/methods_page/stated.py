"""Knows what is stated of a way to drop visual tokens, and where published figures are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ARXIV = "https://arxiv.org/abs/"

# Where published figures are from; a letter of its own each, since figures of different papers do
# not compare.
SOURCES: Mapping[str, str] = {
    "a": "FasterVLM's [project page](https://theia-4869.github.io/FasterVLM/), mean over ten "
    "benchmarks; methods of others as its authors ran them",
    "b": "the project pages of [VisPruner](https://theia-4869.github.io/VisPruner/) and "
    "[CDPruner](https://theia-4869.github.io/CDPruner/), ten benchmarks",
    "c": f"an [evaluation by others]({ARXIV}2602.13315), many of whose questions are about text in "
    "pictures",
    "d": "its authors' own abstract, table or repository, with benchmarks of their choice: "
    "figures of different authors do not compare",
}


@dataclass(frozen=True)
class Published:
    """What was published: per cent of the unpruned model's accuracy by tokens of 576.

    Attributes:
        source: a key of `SOURCES`.
        kept: {tokens: per cent}.
    """

    source: str
    kept: Mapping[int, float]

    def __str__(self) -> str:
        figures = ", ".join(f"{tokens}: {value:.1f}" for tokens, value in self.kept.items())
        return f"{figures} ({self.source})"


@dataclass(frozen=True)
class Method:
    """A way to drop visual tokens.

    Attributes:
        title: as its authors call it.
        link: of the paper; empty where none is needed.
        venue: where it appeared.
        reads: what it chooses by.
        drops: where, and what becomes of the rest.
        nested: whether a graph of one budget serves all smaller ones; None where that
            does not apply.
        trained: whether it needs training.
        here: how it is asked for in PocketVLM; of what is not there, why.
        name: of the registry's entry that it is; empty for none.
        published: of LLaVA-1.5-7B.
        remark: what else was published, or how ours differs.
        figures: under which name the demo's figures are; empty for none.
    """

    title: str
    link: str
    venue: str
    reads: str
    drops: str
    here: str
    nested: bool | None = None
    trained: bool = False
    name: str = ""
    published: tuple[Published, ...] = ()
    remark: str = ""
    figures: str = ""


BEHIND, TOWER, DECODER = "behind the tower", "inside the tower", "inside the decoder"
