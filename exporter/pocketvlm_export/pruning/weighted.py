"""Knows what methods have in common that weigh patches by attention as they compare their
features."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from pocketvlm.errors import RequestError
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning.base import Evidence, Pruner, Reads
from pocketvlm_export.pruning.options import Choice, Option

# What each word of an option has the tower computed for.
_FEATURES: Mapping[str, Reads] = {"projected": "projected", "tower": "features"}
_WEIGHTS: Mapping[str, frozenset[Reads]] = {
    "cls": frozenset({"cls_row"}),
    "received": frozenset({"received"}),
    "none": frozenset(),
}
FEATURES, WEIGHT = Choice(tuple(_FEATURES), "projected"), Choice(tuple(_WEIGHTS))


class Weighted(Pruner):
    """A method with the options ``features``, ``weight`` and ``alpha``.

    Attributes:
        options: ``features`` are those that the projector makes, or those of the ``tower`` that it
            reads, of which it then makes only the kept ones. ``weight`` is the attention that
            [CLS] pays a patch or what it has ``received`` of the other patches, or 1 for each;
            where none is asked for, [CLS] where the tower has one that ranks patches. ``alpha`` is
            the power to which the weight is raised.
    """

    reads: frozenset[Reads] = frozenset({"projected"})
    accepts: ClassVar[Mapping[str, Option | Choice]] = {"features": FEATURES, "weight": WEIGHT}

    def settle(self, vision: VisionSpec) -> None:
        """Weigh by [CLS] where that is known to work; raises `RequestError` where there is none."""
        ranks = vision.has_cls and vision.cls_ranks
        weight = str(self.options.setdefault("weight", "cls" if ranks else "received"))
        if weight == "cls" and not vision.has_cls:
            raise RequestError(
                f"{self.name} option weight is 'cls', and the vision tower is a "
                f"{vision.config.model_type}, which has no [CLS] token",
                advice="give received or none, or leave it out",
                setting="pruner_option",
            )
        self.reads = _WEIGHTS[weight] | {_FEATURES[str(self.options["features"])]}

    def vectors(self, evidence: Evidence) -> torch.Tensor:
        """Return the features to compare, (B, N, C)."""
        vectors = (
            evidence.projected if self.options["features"] == "projected" else evidence.features
        )
        assert vectors is not None
        return vectors

    def weights(self, evidence: Evidence) -> torch.Tensor:
        """Return each patch's weight as a part of the largest, to the power of alpha: (B, N)."""
        weight = self.options["weight"]
        if weight == "none":
            return torch.ones_like(self.vectors(evidence)[:, :, 0])
        paid = evidence.cls_rows[-1].mean(dim=1) if weight == "cls" else evidence.received
        assert paid is not None
        largest = paid.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return (paid / largest) ** self.number("alpha")
