"""Knows what papers report for LLaVA-1.5-7B, so that figures measured here stand beside them.

FasterVLM's table (arXiv 2412.01818) has its own figures and those of FastV as its authors ran it
(pruned after layer 2); FastV's own (arXiv 2403.06764, after layer 3) are few. SQA-I is ScienceQA's
questions with a picture; POPE is the mean F1 of its three files; VQA v2 is test-dev, whose answers
are not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_TOKENS = (576, 432, 288, 144, 58, 29)
_FASTV_TOKENS = (288, 144, 58, 29)


@dataclass(frozen=True)
class Published:
    """A benchmark in papers.

    Attributes:
        columns: {who: {visual tokens kept: per cent}}.
        mean_over_tags: the figure is the mean over the tags of a set, not that of all questions.
        remark: what else differs; empty where nothing does.
    """

    columns: Mapping[str, Mapping[int, float]]
    mean_over_tags: bool = False
    remark: str = ""


def _table(
    fastervlm: str, fastv: str, **more: Mapping[int, float]
) -> dict[str, Mapping[int, float]]:
    ours = dict(zip(_TOKENS, map(float, fastervlm.split()), strict=True))
    theirs = dict(zip(_FASTV_TOKENS, map(float, fastv.split()), strict=True))
    return {"FasterVLM": ours, "FastV, by FasterVLM": theirs, **more}


PUBLISHED: dict[str, Published] = {
    "vqav2": Published(
        _table("78.52 78.39 77.86 76.19 71.92 66.75", "77.67 74.07 65.38 55.92"),
        remark="papers ask test-dev, whose answers are not public",
    ),
    "gqa": Published(
        _table(
            "61.94 61.51 60.64 58.34 54.91 51.51",
            "60.05 56.58 51.20 46.03",
            **{"FastV": {576: 62.0, 288: 60.4}},
        )
    ),
    "textvqa": Published(_table("58.21 57.91 57.90 57.07 55.28 53.09", "58.25 57.38 54.75 51.56")),
    "pope": Published(
        _table("85.88 85.92 86.20 83.46 75.85 67.24", "82.45 73.74 57.30 35.47"),
        mean_over_tags=True,
    ),
    "scienceqa": Published(
        _table("69.51 68.57 68.37 67.92 68.91 69.56", "68.96 69.11 69.81 70.00")
    ),
}
