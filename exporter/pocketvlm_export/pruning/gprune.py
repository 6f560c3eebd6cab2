"""G-Prune: importance that spreads over a graph of alike patches (Jiang et al., AAAI 2025, arXiv
2501.02268).

This is a variant of the paper's form. The paper makes one graph of the whole picture at low
resolution and another of all its tiles together. It keeps half of each, and every end of a line.
Here every picture, or tile, has its own graph, and its budget is what is kept.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import Evidence, Pruner, Reads
from pocketvlm_export.pruning.cosines import cosines
from pocketvlm_export.pruning.options import Choice, Option

_FAR = -5000.0  # the logit of patches that are not alike: nothing goes from one to the other
_UNDERFLOW = 70.0  # logits this far below the largest still give a float32 above zero


class GPrune(Pruner):
    """Patches are nodes, joined where the cosine s_ij of their projected features is at least
    ``threshold``.

    P = softmax over j of s_ij / ``temperature``, nothing where they are not joined. The norms of
    the features spread over it, r = |x|^T P^t with t = ``steps``, and the score is r_i / deg_i,
    with deg_i = #{j: P_ij > 0}. In float32 whatever the precision of the graph.
    """

    name: ClassVar[str] = "gprune"
    title: ClassVar[str] = "G-Prune (one graph per picture)"
    paper: ClassVar[str] = "[arXiv 2501.02268](https://arxiv.org/abs/2501.02268)"
    keeps: ClassVar[str] = "that best represent groups of similar patches"
    reads: frozenset[Reads] = frozenset({"projected"})
    accepts: ClassVar[Mapping[str, Option | Choice]] = {
        "threshold": Option(float, 0.01, 0.99, 0.5),
        "temperature": Option(float, 0.001, 10.0, 0.03),
        "steps": Option(int, 0, 64, 5),
    }

    def settle(self, vision: VisionSpec) -> None:
        """Refuse a temperature at which rounding would decide what is joined; raises
        `RequestError`."""
        coldest = (1 - self.number("threshold")) / _UNDERFLOW
        if self.number("temperature") < coldest:
            raise RequestError(
                f"{self.name} option temperature is {self.options['temperature']}, at which the "
                f"weakest edges of threshold {self.options['threshold']} vanish in float32",
                advice=f"give at least {coldest:.3g}",
                setting="pruner_option",
            )

    def score(self, evidence: Evidence) -> torch.Tensor:
        """Return r_i / deg_i: projected features (B, N, hidden) -> (B, N)."""
        assert evidence.projected is not None
        weights = evidence.projected.norm(dim=-1, keepdim=True)  # (B, N, 1)
        alike = cosines(evidence.projected)  # (B, N, N)
        logits = torch.where(
            alike < self.number("threshold"), _FAR, alike / self.number("temperature")
        )
        walk = logits.softmax(dim=-1)
        spread = weights.transpose(1, 2)  # (B, 1, N)
        # Vector by matrix: P^t itself would cost N times as much.
        for _ in range(int(self.options["steps"])):
            spread = torch.matmul(spread, walk)
        return spread.squeeze(1) / (walk > 0).to(spread.dtype).sum(dim=-1)
