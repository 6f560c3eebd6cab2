"""Knows what methods have in common that weight patches by attention: whose attention it is, what
follows from the tower, and that it enters as they compare features."""

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
PAID = Choice(("cls", "received"))  # of a method that does nothing without it


def settle_weight(pruner: Pruner, vision: VisionSpec) -> frozenset[Reads]:
    """Settle a method's option ``weight`` and return what it has the tower computed for.

    Where none is asked for, it is [CLS] where the tower has one that is known to rank patches, and
    received attention elsewhere.

    Raises:
        RequestError: ``cls`` of a tower that has no [CLS].
    """
    ranks = vision.has_cls and vision.cls_ranks
    weight = str(pruner.options.setdefault("weight", "cls" if ranks else "received"))
    if weight == "cls" and not vision.has_cls:
        words = pruner.accepts["weight"]
        assert isinstance(words, Choice)
        others = [word for word in words.words if word != "cls"]
        raise RequestError(
            f"{pruner.name} option weight is 'cls', and the vision tower is a "
            f"{vision.config.model_type}, which has no [CLS] token",
            advice=f"give {' or '.join(others)}, or leave it out",
            setting="pruner_option",
        )
    return _WEIGHTS[weight]


def attention_paid(pruner: Pruner, evidence: Evidence) -> torch.Tensor:
    """Return what a method's option ``weight`` names, not none: (B, N), by [CLS] the mean over
    heads of the score layer."""
    if pruner.options["weight"] == "cls":
        return evidence.cls_rows[-1].mean(dim=1)
    assert evidence.received is not None
    return evidence.received


class Weighted(Pruner):
    """A method with the options ``features``, ``weight`` and ``alpha``.

    Attributes:
        options: ``features`` are those that the projector makes, or those of the ``tower`` that it
            reads, of which it then makes only the kept ones. ``weight`` is the attention of [CLS]
            to a patch, or what it has ``received`` of the other patches, or 1 for each. The default
            is [CLS] if the tower has one that ranks patches. ``alpha`` is the power to which the
            weight is raised.
    """

    reads: frozenset[Reads] = frozenset({"projected"})
    accepts: ClassVar[Mapping[str, Option | Choice]] = {"features": FEATURES, "weight": WEIGHT}

    def settle(self, vision: VisionSpec) -> None:
        """See `settle_weight`."""
        self.reads = settle_weight(self, vision) | {_FEATURES[str(self.options["features"])]}

    def vectors(self, evidence: Evidence) -> torch.Tensor:
        """Return the features to compare, (B, N, C)."""
        vectors = (
            evidence.projected if self.options["features"] == "projected" else evidence.features
        )
        assert vectors is not None
        return vectors

    def weights(self, evidence: Evidence) -> torch.Tensor:
        """Return each patch's weight as a part of the largest, to the power of alpha: (B, N)."""
        if self.options["weight"] == "none":
            return torch.ones_like(self.vectors(evidence)[:, :, 0])
        paid = attention_paid(self, evidence)
        largest = paid.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return (paid / largest) ** self.number("alpha")
