"""Knows what times are measured on: a tower and a decoder of real dimensions with random weights,
each in a checkpoint whose other half is tiny, exported as shipped but without the parity gate.

Random weights answer nonsense, and their near ties are decided by rounding; only time is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frontier.processes import in_processes
from frontier.settings import Dimensions, Setting
from make_checkpoint import PRESETS, make_checkpoint
from make_checkpoint.output import new_folder
from make_checkpoint.presets import VOCABULARY, Preset
from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.files.folders import put_in_place, staged
from pocketvlm_export import ExportOptions, packaging, pipeline
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.pruning import find_pruner
from pocketvlm_measure.progress import counter

PRECISION = "int8"  # of both graphs
_TINY_TOWER: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
_TINY_TEXT: Mapping[str, Any] = {"num_hidden_layers": 1, "vocab_size": VOCABULARY}


@dataclass(frozen=True)
class Models:
    """Checkpoints and artifacts in ``folder``, made where they do not exist yet.

    Attributes:
        folder: of all that is made.
        preset: the model, tower and decoder.
    """

    folder: Path
    preset: Preset

    @property
    def tower(self) -> Path:
        """The checkpoint of the tower; its decoder is one layer of the right width."""
        return self._checkpoint("tower", self.preset.but(text=dict(_TINY_TEXT)))

    @property
    def decoder(self) -> Path:
        """The checkpoint of the decoder; its tower has as many patches."""
        return self._checkpoint("decoder", self.preset.but(vision=dict(_TINY_TOWER)))

    @property
    def dimensions(self) -> Dimensions:
        """What stages and budgets are scaled to."""
        tower, decoder = Dimensions.of(str(self.tower)), Dimensions.of(str(self.decoder))
        return replace(tower, decoder=decoder.decoder)

    def export_tower(self, setting: Setting, budget: int) -> Path:
        """The artifact of a setting's vision graph at one budget; one without a method keeps all
        tokens."""
        named = f"{setting.name}-{budget}" if find_pruner(setting.pruner).prunes else setting.name
        options = setting.export_options((budget,), vision_precisions=(PRECISION,))
        return _build(str(self.tower), self.folder / "towers" / named, options)

    def build_all(self, wanted: Iterable[Callable[[], Path]], workers: int) -> None:
        """Make artifacts, each given as a call of one of the methods here, in several processes;
        both checkpoints are there by then."""
        calls = list(wanted)
        with counter(total=len(calls), desc="building", unit="artifact") as bar:
            for _ in in_processes(calls, workers):
                bar.update()

    def export_decoder(self, setting: Setting) -> Path:
        """The artifact of a setting's decoder graph."""
        options = setting.export_options(
            (), decoder_precisions=(PRECISION,), embed_precisions=("fp32",)
        )
        return _build(str(self.decoder), self.folder / "decoders" / setting.name, options)

    def _checkpoint(self, name: str, preset: Preset) -> Path:
        path = self.folder / f"{name}-checkpoint"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(path) as folder:
                make_checkpoint(preset, folder)
        return path


def real(folder: Path, preset: str) -> Models:
    """Models of a preset of `make_checkpoint`."""
    return Models(folder, PRESETS[preset])


def _build(model: str, target: Path, options: ExportOptions) -> Path:
    """An export as `pipeline.export` does it, without its gate: the manifest says unchecked."""
    if (target / MANIFEST_NAME).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    before = packaging.replaceable(target, overwrite=False)
    plan = _published(pipeline.prepare(model, target, options))
    with staged(target) as folder:
        plan = pipeline.build(plan, folder, lambda _: None)
        plan, artifact_id = pipeline.seal(plan, folder, lambda _: None)
        pipeline.finish(plan, artifact_id, {}, folder)
        put_in_place(folder, target, before)
    return target


def _published(plan: ExportPlan) -> ExportPlan:
    """The plan without the graphs that only a gate would read."""

    def kept(files: Mapping[str, str]) -> dict[str, str]:
        return {name: file for name, file in files.items() if file not in plan.extra}

    return replace(
        plan,
        vision={budget: kept(graphs) for budget, graphs in plan.vision.items()},
        embed=kept(plan.embed),
        decoder=kept(plan.decoder),
    )
