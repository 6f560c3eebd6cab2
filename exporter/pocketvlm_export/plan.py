"""Knows what a plan of an export is: which files it will write and what they will cost in bytes and
memory."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import Generation
from pocketvlm.artifact.stages import Stage
from pocketvlm.layouts import Medium
from pocketvlm_export.calibration import Calibration
from pocketvlm_export.checkpoint import generation_notes, generation_warnings
from pocketvlm_export.families import LayoutSpec, VLMSpec
from pocketvlm_export.footprint import Footprint, Opened, estimate_footprint
from pocketvlm_export.gguf_types import GGUF_TYPES
from pocketvlm_export.layouts import (
    most_tiles,
    totals,
)
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.precisions import PRECISIONS
from pocketvlm_export.pruning.base import ATTENTION, Pruner
from pocketvlm_export.tower_stages import find_criterion

_GRAPH_BYTES = 1 << 19  # a graph without its weights, rounded up

_ONLY_OURS = (
    "{} selects by the question in a graph of its own, which pocketvlm runs; transformers.js and "
    "llama.cpp's own programs do not, and cannot answer from this artifact"
)


@dataclass(frozen=True)
class ExportPlan:
    """What will be written: graph file names by budget and precision, and what they cost.

    Attributes:
        checkpoint: as it is exported, which is under the plan's layout.
        pruner: the method, its options settled.
        layout: how pictures become tiles and slots.
        budgets: visual tokens kept per picture or per tile, the default first.
        options: the request.
        generation: the checkpoint's published generation settings.
        vision: {budget: {precision: file}}; embed, decoder: {precision: file}; gguf: {type: file}.
            What the gate compares with the checkpoint is always among them; an engine that was not
            requested has none.
        context: longest sequence in tokens, the same for each engine.
        vision_bytes, embed_bytes, decoder_bytes, gguf_bytes: of the weights of one file in float32.
        memory_bytes: estimated peak of resident memory while exporting.
        tower_stages: where the tower drops patches on its way, settled.
        decoder_stages: where the decoder drops visual tokens on its way, settled.
        selectors: {budget: file} of the graphs that select by the prompt, where the method reads
            that; ``vision`` then names one file for all budgets.
        calibration: the pictures that activations are measured on, None where no precision is
            calibrated.
        beside: of each further medium that the artifact reads a plan of its vision graphs alone.
    """

    checkpoint: Checkpoint
    pruner: Pruner
    layout: LayoutSpec
    budgets: tuple[int, ...]
    options: ExportOptions
    generation: Generation
    vision: dict[int, dict[str, str]]
    embed: dict[str, str]
    decoder: dict[str, str]
    gguf: dict[str, str]
    context: int
    vision_bytes: int
    embed_bytes: int
    decoder_bytes: int
    gguf_bytes: int
    memory_bytes: int
    tower_stages: tuple[Stage, ...] = ()
    decoder_stages: tuple[Stage, ...] = ()
    selectors: dict[int, str] = field(default_factory=dict)
    beside: Mapping[Medium, "ExportPlan"] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def selector_table(self) -> str:
        """The precision of the embedding table that a question is read by; empty where the method
        reads none."""
        return self.options.embed[0] if self.selectors else ""

    @property
    def spec(self) -> VLMSpec:
        """The checkpoint's dimensions as it is exported."""
        return self.checkpoint.spec

    @property
    def extra(self) -> set[str]:
        """Graph and GGUF files that are built for the gate only and removed before publishing."""
        options = self.options
        files = {
            file
            for graphs in self.vision.values()
            for file in _without(graphs, options.vision_precisions)
        }
        files |= _without(self.embed, options.embed)
        files |= _without(self.decoder, options.decoder_precisions)
        files |= {file for plan in self.beside.values() for file in plan.extra}
        return files | _without(self.gguf, options.gguf)

    def sizes(self) -> dict[str, int]:
        """Return the estimated bytes of each file, weights counted with the first graph that needs
        them."""
        sizes = {
            file: _GRAPH_BYTES
            + (self._weights(self.vision_bytes, precision) if budget == self.budgets[0] else 0)
            for budget, graphs in sorted(
                self.vision.items(), key=lambda item: item[0] == self.budgets[0]
            )
            for precision, file in graphs.items()
        }
        sizes |= dict.fromkeys(self.selectors.values(), _GRAPH_BYTES)
        for files, weights in ((self.embed, self.embed_bytes), (self.decoder, self.decoder_bytes)):
            sizes |= {
                file: _GRAPH_BYTES + self._weights(weights, precision)
                for precision, file in files.items()
            }
        shared = {file for precision, file in self.embed.items() if self._shares_head(precision)}
        sizes |= dict.fromkeys(shared, _GRAPH_BYTES)
        for plan in self.beside.values():
            sizes |= plan.sizes()
        return sizes | {file: self.gguf_size(kind) for kind, file in self.gguf.items()}

    def _shares_head(self, precision: str) -> bool:
        """Whether an embedding table lies in the decoder's weights file already."""
        decoder = self.decoder.get(precision, "")
        tied = self.spec.decoder.tied and PRECISIONS[precision].shares_head
        tied = tied and self.options.shared_tables
        return tied and decoder != "" and decoder not in self.extra

    def gguf_size(self, kind: str) -> int:
        """Return the estimated bytes of a GGUF file of a type."""
        bits, head_bits = GGUF_TYPES[kind].bits, GGUF_TYPES[kind].head_bits
        return _GRAPH_BYTES + int(
            ((self.gguf_bytes - self.embed_bytes) * bits + self.embed_bytes * head_bits) / 32
        )

    def disk_bytes(self) -> int:
        """Return the bytes needed while exporting, graphs built for the gate included."""
        return sum(self.sizes().values())

    def footprint(self) -> Footprint:
        """Estimate what the device takes as it answers by default: engine, budget and precisions;
        with both decoders of a pair where the memory limit allows."""
        alone = self._footprint(self.options.decoder_precisions[:1])
        if not self.options.pair:
            return alone
        both, limit = self._footprint(self.options.pair.split("+")), self.options.memory_limit
        return alone if limit and both.total > limit * 1e6 else both

    def _footprint(self, decoders: Sequence[str]) -> Footprint:
        """With the ONNX decoders of these precisions, the last of which says what table is read."""
        options, sizes = self.options, self.sizes()
        vision = options.vision_precisions[0]
        files = [
            Opened("vision", vision, sizes[plan.vision[plan.budgets[0]][vision]])
            for plan in (self, *self.beside.values())
        ]
        if self.decoder:
            table = options.table(decoders[-1])
            files += [Opened("decoder", name, sizes[self.decoder[name]]) for name in decoders]
            files.append(Opened("embed", table, sizes[self.embed[table]]))
        else:
            files.append(Opened("gguf", options.gguf[0], sizes[self.gguf[options.gguf[0]]]))
            files += [  # by which a question is read
                Opened("embed", table, sizes[self.embed[table]])
                for table in filter(None, [self.selector_table])
            ]
        slots = max(self.totals()[self.budgets[0]].values())
        tiles = most_tiles(self.spec, self.layout)
        return estimate_footprint(
            self.spec,
            files,
            slots=slots,
            tiles=tiles,
            context=self.context,
            onnx=bool(self.decoder),
            fused=not (options.standard(metadata.VISION_ENCODER) or self._reads_attention),
        )

    @property
    def _reads_attention(self) -> bool:
        """Whether the method or a stage of the tower reads a layer's attention."""
        stages = (find_criterion(stage.by) for stage in self.tower_stages)
        reads = frozenset().union(*(each.reads | each.watches for each in stages))
        return bool((self.pruner.reads | reads) & ATTENTION)

    def totals(self) -> dict[int, dict[str, int]]:
        """Return how many visual tokens a picture takes at most, by budget and grid of tiles."""
        return {budget: totals(self.spec, self.layout, budget) for budget in self.budgets}

    def renamed(self, rename: Callable[[str], str]) -> Self:
        """Return the plan with other names for its graphs' files."""

        def each(files: Mapping[str, str]) -> dict[str, str]:
            return {precision: rename(file) for precision, file in files.items()}

        vision = {budget: each(files) for budget, files in self.vision.items()}
        beside = {medium: plan.renamed(rename) for medium, plan in self.beside.items()}
        return replace(
            self,
            vision=vision,
            embed=each(self.embed),
            decoder=each(self.decoder),
            selectors={budget: rename(file) for budget, file in self.selectors.items()},
            beside=beside,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever exports should know, a sentence each."""
        of_method = self.spec.family.warnings(self.spec, self.pruner.name, self.pruner.reads)
        of_weights, of_generation = self._unknown_weights(), generation_warnings(self.generation)
        of_clients = [_ONLY_OURS.format(self.pruner.name)] if self.selectors else []
        return (
            *self.checkpoint.warnings,
            *of_method,
            *of_weights,
            *of_generation,
            *of_clients,
            *(self.calibration.warnings if self.calibration else ()),
        )

    def _unknown_weights(self) -> list[str]:
        family = self.spec.family
        names = family.unknown(self.checkpoint.weights)
        if not names:
            return []
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return [
            f"{len(names)} of the checkpoint's tensors are not part of a {family.model_type} model "
            f"and are left out, as transformers does ({listed})"
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--dry-run --json`` prints."""
        kept = {file: size for file, size in self.sizes().items() if file not in self.extra}
        return {
            "pruner": self.pruner.name,
            "merge_dropped": self.options.merge_dropped,
            "budgets": list(self.budgets),
            "tower_stages": [dataclasses.asdict(stage) for stage in self.tower_stages],
            "decoder_stages": [dataclasses.asdict(stage) for stage in self.decoder_stages],
            "totals": {str(budget): by_grid for budget, by_grid in self.totals().items()},
            "files": kept,
            "bytes": sum(kept.values()),
            "disk_bytes": self.disk_bytes(),
            "memory_bytes": self.memory_bytes,
            "context": self.context,
            "device_memory_bytes": self.footprint().total,
            **({"media": self._media()} if self.beside else {}),
            "caps": self.spec.caps.given,
            **({"image_size": self._size()} if self.spec.vision.made_for else {}),
            "generation": dataclasses.asdict(self.generation),
            "notes": [
                *generation_notes(self.generation),
                *([self.calibration.note] if self.calibration else []),
            ],
            "warnings": list(self.warnings),
        }

    def _size(self) -> dict[str, Any]:
        """The size of pictures that was asked for, and what it comes to."""
        vision = self.spec.vision
        made_for = vision.made_for or vision.tile_size
        return {
            "asked": list(vision.tile_size),
            "made_for": list(made_for),
            "tokens": vision.tokens,
        }

    def _media(self) -> dict[str, Any]:
        """What is kept of each medium, and the bytes of its vision graphs."""
        sizes, extra = self.sizes(), self.extra
        return {
            plan.spec.family.medium: {
                "budgets": list(plan.budgets),
                "tokens_before": plan.spec.vision.tokens,
                "totals": {str(budget): by_grid for budget, by_grid in plan.totals().items()},
                "bytes": sum(
                    sizes[file]
                    for graphs in plan.vision.values()
                    for file in graphs.values()
                    if file not in extra
                ),
            }
            for plan in (self, *self.beside.values())
        }

    @staticmethod
    def _weights(fp32_bytes: int, precision: str) -> int:
        return int(fp32_bytes * PRECISIONS[precision].bits / 32)


def _without(files: Mapping[str, str], published: Iterable[str]) -> set[str]:
    """The files of all precisions but those that are ``published``."""
    return {file for name, file in files.items() if name not in set(published)}
