"""Knows, before anything is built, which files an export will write and what they will cost in bytes and memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pocketvlm import PocketVLMError
from pocketvlm_export.families import VLMSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.options import GATE_PRECISION, PRECISION_SUFFIXES, ExportOptions, check_budgets
from pocketvlm_export.pruning import Pruner, make_pruner

_BYTES = {"fp32": 4, "fp16": 2}  # a parameter on disk
_GRAPH_BYTES = 1 << 20  # a graph without its weights, rounded up
_BASELINE = 420 << 20  # torch, transformers and ONNX Runtime imported
_MEMORY_FACTOR = 1.3  # peak against the largest component in float32: the component itself and what tracing adds


@dataclass(frozen=True)
class ExportPlan:
    """What will be written: graph file names by budget and precision, and what they cost.

    Attributes:
        vision: {budget: {precision: file}}; embed, decoder: {precision: file}; the gate's precision always among them.
        vision_bytes, embed_bytes, decoder_bytes: of one float32 graph's weights.
        memory_bytes: estimated peak of resident memory.
    """

    pruner: Pruner
    budgets: tuple[int, ...]
    options: ExportOptions
    vision: dict[int, dict[str, str]]
    embed: dict[str, str]
    decoder: dict[str, str]
    vision_bytes: int
    embed_bytes: int
    decoder_bytes: int
    memory_bytes: int

    @property
    def extra(self) -> set[str]:
        """Graph files that are built for the gate only and removed before publishing."""
        vision = GATE_PRECISION not in self.options.vision_precisions
        decoder = GATE_PRECISION not in self.options.decoder_precisions
        return {
            *(graphs[GATE_PRECISION] for graphs in self.vision.values() if vision),
            *(files[GATE_PRECISION] for files in (self.embed, self.decoder) if decoder),
        }

    def sizes(self) -> dict[str, int]:
        """Return the estimated bytes of each graph that is kept, its weights counted with the first that needs them."""
        sizes = {
            file: _GRAPH_BYTES + (self._weights(self.vision_bytes, precision) if budget == self.budgets[0] else 0)
            for budget, graphs in self.vision.items()
            for precision, file in graphs.items()
        }
        for files, weights in ((self.embed, self.embed_bytes), (self.decoder, self.decoder_bytes)):
            sizes |= {file: _GRAPH_BYTES + self._weights(weights, precision) for precision, file in files.items()}
        return sizes

    def disk_bytes(self) -> int:
        """Return the bytes needed while exporting, graphs built for the gate included."""
        return sum(self.sizes().values())

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--dry-run --json`` prints."""
        kept = {file: size for file, size in self.sizes().items() if file not in self.extra}
        return {
            "pruner": self.pruner.name,
            "budgets": list(self.budgets),
            "files": kept,
            "bytes": sum(kept.values()),
            "disk_bytes": self.disk_bytes(),
            "memory_bytes": self.memory_bytes,
        }

    @staticmethod
    def _weights(fp32_bytes: int, precision: str) -> int:
        return fp32_bytes * _BYTES[precision] // 4


def make_plan(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Decide what to write; raises `PocketVLMError` for a method or budget that this checkpoint cannot serve."""
    spec = checkpoint.spec
    pruner = make_pruner(options.pruner, options.pruner_options)
    _check_pruner(pruner, spec)
    budgets = check_budgets(options.budgets, spec.vision.tokens, pruner.default_budget(spec.vision.tokens))
    if not pruner.prunes and budgets != (spec.vision.tokens,):
        raise PocketVLMError(
            f"pruner {pruner.name} keeps all {spec.vision.tokens} tokens, but --budget says {budgets[0]}: "
            "leave the budget out or choose a pruner"
        )
    count = checkpoint.weights.parameters
    embed = 4 * spec.decoder.vocab * spec.decoder.hidden
    # The head is as large as the embedding; tied checkpoints store one of them or both.
    decoder = 4 * (count("decoder.") - count("decoder.model.embed_tokens.") - count("decoder.lm_head.")) + embed
    vision = 4 * (count("vision_tower.") + count("projector."))
    return ExportPlan(
        pruner=pruner,
        budgets=budgets,
        options=options,
        vision={budget: _vision_names(budget, budgets, options) for budget in budgets},
        embed=_names("embed_tokens", options.decoder_precisions),
        decoder=_names("decoder_model_merged", options.decoder_precisions),
        vision_bytes=vision,
        embed_bytes=embed,
        decoder_bytes=decoder,
        memory_bytes=_BASELINE + int(_MEMORY_FACTOR * max(vision, decoder + embed)),
    )


def _check_pruner(pruner: Pruner, spec: VLMSpec) -> None:
    if "cls_row" in pruner.reads and not spec.vision.has_cls:
        raise PocketVLMError(
            f"the vision tower is a {spec.vision.config.model_type}, which has no [CLS] token that {pruner.name} could "
            "rank patches by: use a checkpoint with a CLIP tower"
        )


def _vision_names(budget: int, budgets: tuple[int, ...], options: ExportOptions) -> dict[str, str]:
    return _names("vision_encoder", options.vision_precisions, "" if budget == budgets[0] else f".k{budget}")


def _names(graph: str, precisions: Iterable[str], budget: str = "") -> dict[str, str]:
    """Return {precision: file}, in the order asked for, the gate's precision added last where it is not asked for."""
    wanted = dict.fromkeys((*precisions, GATE_PRECISION))
    return {precision: f"onnx/{graph}{PRECISION_SUFFIXES[precision]}{budget}.onnx" for precision in wanted}
