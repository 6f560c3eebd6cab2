"""Knows what `pocketvlm tune` does where it is given a checkpoint: says what will be exported, and
hands out candidates that are exported when they are measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.cli.terminal import echo, printable
from pocketvlm.files import user_path

if TYPE_CHECKING:
    from pocketvlm_measure.tune.exporting import Exports
    from pocketvlm_measure.tune.tuning import Candidate, TuneLimits, Tuning

_LEAST = 1.0  # seconds that are left for measuring, however long the first export took


def holds_artifact(model: str) -> bool:
    """Whether what was named is the folder of an artifact, rather than a checkpoint."""
    return (user_path(model) / MANIFEST_NAME).exists()


def kept_beside(model: str) -> Path:
    """The folder of exports where none was named: here, and called after the checkpoint."""
    return Path(f"exports-{user_path(model).name or 'model'}")


@dataclass(frozen=True)
class OfCheckpoint:
    """A checkpoint that is tuned.

    Attributes:
        exports: of its variants.
        candidates: all, the unpruned one in the most exact precisions first.
    """

    exports: Exports
    candidates: list[Candidate]

    @property
    def tokens(self) -> int:
        """Visual tokens of a picture or tile before pruning."""
        return self.exports.offer.tokens

    @property
    def notes(self) -> list[str]:
        """What was exported, and what was not tried, for people."""
        made = [f"exported into {self.exports.root}, through the parity gate; remove it when done"]
        return [*made, *(f"not tried: {sentence}" for sentence in self.exports.offer.left_out)]

    def begin(self, baseline: Candidate, limits: TuneLimits) -> TuneLimits:
        """Export what all others are compared with; returns the limits with the time that is
        left."""
        began = time.monotonic()
        self.exports.prepare([baseline], limits.time)
        return replace(limits, time=max(_LEAST, limits.time - (time.monotonic() - began)))

    def memory_limit(self, tuning: Tuning) -> int | None:
        """The limit in MB that a target of the choice can state: what was asked for, unless an
        export is expected to take more with its context full, and would be refused."""
        allowed, chosen = tuning.limits.max_memory, tuning.chosen
        if allowed is None or chosen is None:
            return None
        needed = max(
            variant.device_bytes
            for variant in self.exports.offer.variants
            if str(self.exports.folder(variant)) == chosen.candidate.folder
        )
        return int(allowed) if needed <= allowed * 1e6 else None


def of_checkpoint(
    model: str,
    wishes: dict[str, Any],
    root: Path | None,
    threads: int | None,
    decoder_precisions: Sequence[str],
    providers: tuple[str, ...] = (),
) -> OfCheckpoint:
    """Ask the exporter that is installed what may be tried, and say so on standard error.

    Raises:
        RequestError: none is installed, see `pocketvlm_measure.tune.exporting`.
        PocketVLMError: the checkpoint, or what is wished for, is refused.
    """
    from pocketvlm_measure.tune.exporter_process import ExporterProcess
    from pocketvlm_measure.tune.exporting import Exports, Offer

    process = ExporterProcess()
    offer = Offer.of(model, wishes, process)
    for line in offer.announcement():
        echo(printable(line), err=True)
    exports = Exports(offer, root or kept_beside(model), process)
    named = [name for name in decoder_precisions if name != "all"]
    return OfCheckpoint(exports, exports.candidates(threads, named, providers))
