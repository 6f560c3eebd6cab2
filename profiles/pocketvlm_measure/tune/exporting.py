"""Knows candidates that are still to be exported: which there are of a checkpoint, and that each is
exported when it is first measured, by the exporter that is installed.

The exporter is an entry point of the group ``pocketvlm.exporters``, called in processes of their
own: what it loads takes no memory of what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.errors import EngineError, PocketVLMError, RequestError
from pocketvlm_measure.cases import Case
from pocketvlm_measure.progress import counter
from pocketvlm_measure.tune.candidates import smaller_caps
from pocketvlm_measure.tune.exporter_process import ExporterProcess
from pocketvlm_measure.tune.source import Scores, Source, Taken
from pocketvlm_measure.tune.tuning import Candidate

GROUP, NAME = "pocketvlm.exporters", "transformers"
_EXPORTING = 0.6  # of the time for a turn, that exports may take which begin in it


class Exporter(Protocol):
    """What the entry point gives: functions of plain values."""

    def offer(self, model: str, **wishes: Any) -> dict[str, Any]:
        """Return what may be exported of a checkpoint, see `Offer.of`."""
        ...

    def make(self, model: str, name: str, root: str, **wishes: Any) -> str:
        """Export a variant below a folder, whole or not at all; returns its folder."""
        ...


@dataclass(frozen=True)
class Variant:
    """One export, which serves several candidates.

    Attributes:
        name: that it is asked for by.
        folder: where it lies below the folder that keeps them.
        made_by: see `Candidate`.
        budgets: visual tokens, a graph each.
        vision_precisions: of its tower, the most exact first.
        decoder_precisions: {engine: precisions or GGUF types}, the most exact first.
        bytes: of its files.
        shared_bytes: of these, those that all variants have in common.
        device_bytes: expected memory while answering, at most.
        seconds: that the export is expected to take.
        gate_bytes: of files that all have in common too, which only the parity gate reads.
        caps, least_caps: on pictures, by name: its own, and the least that its layout takes.
        tokens: of a picture or tile before pruning, where its pictures have a size of their own; 0
            is as of the offer.
    """

    name: str
    folder: str
    made_by: tuple[tuple[str, str], ...]
    budgets: tuple[int, ...]
    vision_precisions: tuple[str, ...]
    decoder_precisions: Mapping[str, tuple[str, ...]]
    bytes: int
    shared_bytes: int
    device_bytes: int
    seconds: float
    gate_bytes: int = 0
    caps: Mapping[str, int] = field(default_factory=dict)
    least_caps: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0

    def cases(
        self,
        threads: int | None = None,
        decoders: Sequence[str] = (),
        providers: tuple[str, ...] = (),
    ) -> Iterator[Case]:
        """Yield every configuration that it can answer in, the baseline's first where it is the
        unpruned one. Pictures in their own size first, then smaller ones.

        Args:
            threads: of each engine.
            decoders: precisions of the decoder, pairs too, see `has_precision`; none means all but
                pairs, which come to the first token as their first precision does.
            providers: see `Case`.
        """
        pixels, tiles = (
            (None, *smaller_caps(self.caps.get(name), self.least_caps.get(name, 1)))
            for name in ("max_pixels", "max_tiles")
        )
        for max_pixels, max_tiles in product(pixels, tiles):
            for case in self._whole(threads, decoders, providers):
                yield replace(case, max_pixels=max_pixels, max_tiles=max_tiles)

    def _whole(
        self, threads: int | None, decoders: Sequence[str], providers: tuple[str, ...]
    ) -> Iterator[Case]:
        """Those of pictures in their own size."""
        for engine, names in self.decoder_precisions.items():
            wanted = [name for name in decoders if set(name.split("+")) <= set(names)]
            for vision in self.vision_precisions:
                for decoder in wanted or names:
                    for budget in self.budgets:
                        yield Case(budget, engine, decoder, vision, threads, providers=providers)


@dataclass(frozen=True)
class Offer:
    """What may be exported of a checkpoint.

    Attributes:
        model: the checkpoint, as it was named.
        wishes: what the grid was restricted to, as keyword arguments of `Exporter.offer`.
        tokens: visual tokens of a picture or tile before pruning.
        variants: the unpruned one first.
        left_out: what is not tried, and why, a sentence each.
    """

    model: str
    wishes: Mapping[str, Any]
    tokens: int
    variants: Sequence[Variant]
    left_out: Sequence[str]

    @classmethod
    def of(cls, model: str, wishes: Mapping[str, Any], process: ExporterProcess) -> Offer:
        """Ask the exporter that is installed, in ``process``; takes seconds.

        Raises:
            RequestError: none is installed.
            PocketVLMError: see `Exporter.offer`.
        """
        data = process.call(_offered, model, dict(wishes))
        variants = [
            Variant(
                made_by=tuple((option, value) for option, value in each["made_by"]),
                budgets=tuple(each["budgets"]),
                vision_precisions=tuple(each["vision_precisions"]),
                decoder_precisions={
                    engine: tuple(names) for engine, names in each["decoder_precisions"].items()
                },
                **{
                    name: each[name]
                    for name in (
                        "name",
                        "folder",
                        "bytes",
                        "shared_bytes",
                        "device_bytes",
                        "seconds",
                    )
                },
                **{
                    name: each[name]
                    for name in ("gate_bytes", "caps", "least_caps", "tokens")
                    if name in each
                },
            )
            for each in data["variants"]
        ]
        rest = {name: data[name] for name in ("tokens", "left_out")}
        return cls(model, wishes, variants=variants, **rest)

    def announcement(self) -> Iterator[str]:
        """Yield lines that say, before anything begins, what will be exported and what it takes."""
        shared = max((variant.shared_bytes for variant in self.variants), default=0)
        gate = max((variant.gate_bytes for variant in self.variants), default=0)
        own = [variant.bytes - variant.shared_bytes for variant in self.variants]
        megabytes = (shared + gate + sum(own)) / 1e6
        minutes = sum(variant.seconds for variant in self.variants) / 60
        yield (
            f"{self.model}: up to {len(self.variants)} exports, each when it is first measured; "
            f"about {minutes:.1f} minutes and {megabytes:.0f} MB in all, the "
            "parity gate included"
        )
        for variant, size in zip(self.variants, own, strict=True):
            made = " ".join(part for pair in variant.made_by for part in pair)
            budgets = ", ".join(map(str, variant.budgets))
            yield (
                f"  {made}: {budgets} of {variant.tokens or self.tokens} tokens, about "
                f"{variant.seconds / 60:.1f} min, {size / 1e6:.0f} MB, on the device at most "
                f"{variant.device_bytes / 1e6:.0f} MB"
            )
        yield (
            f"  decoders, shared by all: {shared / 1e6:.0f} MB, and {gate / 1e6:.0f} MB that only "
            "the gate reads"
        )
        for sentence in self.left_out:
            yield f"  not tried: {sentence}"


@dataclass
class Exports:
    """The folders of an offer's variants, made when they are asked for and kept between runs.

    Attributes:
        offer: what may be exported.
        root: where the folders are kept.
        process: where they are made.
        seconds: that each export of this run took, by variant.
        refused: why a variant could not be exported, by its name.
    """

    offer: Offer
    root: Path
    process: ExporterProcess
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)

    def folder(self, variant: Variant) -> Path:
        """Where a variant lies, or will: absolute."""
        return (self.root / variant.folder).resolve()

    def candidates(
        self,
        threads: int | None = None,
        decoders: Sequence[str] = (),
        providers: tuple[str, ...] = (),
    ) -> list[Candidate]:
        """Return every candidate, the baseline first: unpruned, in the most exact precisions of the
        first engine; arguments see `Variant.cases`."""
        return [
            Candidate(str(self.folder(variant)), case, variant.made_by)
            for variant in self.offer.variants
            for case in variant.cases(threads, decoders, providers)
        ]

    def prepare(self, candidates: Sequence[Candidate], left: float) -> list[Candidate]:
        """Export what candidates need and nobody has exported yet, one after the other.

        Args:
            candidates: which.
            left: seconds; no further export begins once they are over.

        Returns:
            Those that can be measured, in their order; see ``refused`` for what cannot be, and
            never will.
        """
        folders = {str(self.folder(variant)): variant for variant in self.offer.variants}
        wanted = dict.fromkeys(candidate.folder for candidate in candidates)
        self._made |= {
            folders[folder].name
            for folder in wanted
            if folder in folders and (Path(folder) / MANIFEST_NAME).exists()
        }
        needed = [
            folders[folder]
            for folder in wanted
            if folder in folders and folders[folder].name not in self._made | set(self.refused)
        ]
        end = time.monotonic() + left
        if needed:
            self._export(needed, end)
        return [
            candidate
            for candidate in candidates
            if candidate.folder not in folders or folders[candidate.folder].name in self._made
        ]

    def reason(self, candidate: Candidate) -> str | None:
        """Return why a candidate cannot be exported, in a line; None where it can."""
        return next(
            (
                self.refused.get(variant.name)
                for variant in self.offer.variants
                if str(self.folder(variant)) == candidate.folder
            ),
            None,
        )

    def _export(self, needed: Sequence[Variant], end: float) -> None:
        with counter(total=len(needed), desc="exporting", unit="export") as bar:
            for variant in needed:
                if time.monotonic() >= end:
                    return
                bar.set_postfix_str(f"{variant.name}, about {self._expected(variant):.0f} s")
                begun = time.monotonic()
                self.root.mkdir(parents=True, exist_ok=True)
                try:
                    self.process.call(
                        _made,
                        self.offer.model,
                        variant.name,
                        str(self.root),
                        dict(self.offer.wishes),
                    )
                except EngineError:  # not the variant's fault
                    raise
                except PocketVLMError as refusal:
                    if variant is self.offer.variants[0]:
                        raise  # nothing to compare with
                    self.refused[variant.name] = str(refusal)
                else:
                    self._made.add(variant.name)
                    self.seconds[variant.name] = time.monotonic() - begun
                bar.update()

    def _expected(self, variant: Variant) -> float:
        """Seconds, by what exports of this run took of what was expected."""
        names = {each.name: each.seconds for each in self.offer.variants}
        expected = sum(names[name] for name in self.seconds)
        rate = sum(self.seconds.values()) / expected if expected else 1.0
        return rate * variant.seconds


@dataclass(frozen=True)
class Exporting:
    """A `Source` whose folders are exported before they are first used, in its time."""

    inner: Source
    exports: Exports

    @property
    def baseline(self) -> Candidate:
        """See `Source`."""
        return self.inner.baseline

    @property
    def candidates(self) -> Sequence[Candidate]:
        """See `Source`."""
        return self.inner.candidates

    @property
    def pictures(self) -> npt.NDArray[np.int64]:
        """See `Source`."""
        return self.inner.pictures

    def clock(self) -> float:
        """See `Source`."""
        return self.inner.clock()

    def answer(
        self, candidates: Sequence[Candidate], questions: Sequence[int], until: float
    ) -> Scores:
        """See `Source`."""
        ready = self.exports.prepare(candidates, until - self.clock())
        self.exports.process.close()
        answered = self.inner.answer(ready, questions, until) if ready else {}
        return {candidate: answered.get(candidate, {}) for candidate in candidates}

    def turn(
        self, candidates: Sequence[Candidate], number: int, until: float
    ) -> Mapping[Candidate, Taken | str]:
        """See `Source`; what cannot be exported cannot run. Exporting leaves time for the turn."""
        ready = self.exports.prepare(candidates, _EXPORTING * (until - self.clock()))
        self.exports.process.close()
        taken: dict[Candidate, Taken | str] = {
            candidate: reason
            for candidate in candidates
            if (reason := self.exports.reason(candidate)) is not None
        }
        return taken | dict(self.inner.turn(ready, number, until) if ready else {})


def _exporter() -> Exporter:
    """The exporter that is installed; raises `RequestError` with the command that installs it."""
    reason = "no exporter is registered"
    try:
        for entry in entry_points(group=GROUP, name=NAME):
            loaded: Exporter = entry.load()  # a module with these two functions
            return loaded
    except ImportError as error:
        reason = str(error)
    raise RequestError(
        f"to tune a checkpoint needs the exporter ({reason})",
        advice="pip install 'pocketvlm[export]', or give the folder of an artifact",
    )


def _offered(model: str, wishes: dict[str, Any]) -> dict[str, Any]:
    return _exporter().offer(model, **wishes)


def _made(model: str, name: str, root: str, wishes: dict[str, Any]) -> str:
    return _exporter().make(model, name, root, **wishes)
