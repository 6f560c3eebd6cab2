"""Knows what papers report for LLaVA-1.5-7B, so that figures measured here can be put beside them.

FasterVLM's table (arXiv 2412.01818) has its own figures and those of FastV as its authors ran it
(pruned after layer 2). FastV's own figures (arXiv 2403.06764, after layer 3) are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_TOKENS = (576, 432, 288, 144, 58, 29)
_FASTV_TOKENS = (288, 144, 58, 29)


@dataclass(frozen=True)
class Published:
    """A benchmark's figures in papers.

    Attributes:
        columns: {who: {visual tokens kept: per cent}}.
        mean_over_tags: the figure is the mean over the tags of a set, not that of all questions.
        remark: what else differs; empty where nothing does.
    """

    columns: Mapping[str, Mapping[int, float]]
    mean_over_tags: bool = False
    remark: str = ""


def fastervlm_table(
    fastervlm: str, fastv: str, **more: Mapping[int, float]
) -> dict[str, Mapping[int, float]]:
    """The columns of a benchmark in FasterVLM's table, each as the paper prints it: per cent, the
    most tokens first.

    Args:
        fastervlm: six figures, at 576, 432, 288, 144, 58 and 29 tokens.
        fastv: four, at 288, 144, 58 and 29 tokens.
        more: further columns by name.
    """
    own = dict(zip(_TOKENS, map(float, fastervlm.split()), strict=True))
    rerun = dict(zip(_FASTV_TOKENS, map(float, fastv.split()), strict=True))
    return {"FasterVLM": own, "FastV, by FasterVLM": rerun, **more}
