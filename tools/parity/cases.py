"""Knows what is compared: checkpoints of every family, their artifacts, and in which precisions and
engines these answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

from make_checkpoint import HUB_PRESETS, PRESETS, make_checkpoint
from make_checkpoint.output import new_folder
from parity.drawn import Form, draw
from pocketvlm import VLM, Artifact
from pocketvlm.errors import CheckpointError
from pocketvlm.limits import NOTHING_KEPT, Limits
from pocketvlm.ort.settings import EngineSettings
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.gguf import architecture
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.kept_files import KeptFiles
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.precisions import GATE_PRECISION, PAIR, names_for
from pocketvlm_export.verification import ParityError

DEMO = "demo"
NONE, DEFAULT = "none", "default"  # methods
_CALIBRATION = 16  # pictures, of another seed than those that are asked about
_ONE_PROMPT = Form(system=False, turns=False)
# Pictures of any size keep all their tokens where these are fewer than the budget: large ones.
_LARGE = Form(edges=(200, 700))
# What questions to a checkpoint may be, where that is not everything.
_FORMS = {
    DEMO: Form(scenes=True),
    "tiny-video-llava": Form("video", pictures=1),
    "tiny-qwen2-vl": _LARGE,
    "tiny-qwen2.5-vl": _LARGE,
    "tiny-qwen3-vl": _LARGE,
    "tiny-lfm2-vl": _LARGE,
    "tiny-paligemma": _ONE_PROMPT,
    "tiny-paligemma-gemma": _ONE_PROMPT,
}


@dataclass(frozen=True)
class Setting:
    """How an artifact answers.

    Attributes:
        name: for tables.
        engine: of the decoder.
        vision: precision of the vision graph.
        decoder: precision or GGUF type of the decoder.
    """

    name: str
    engine: str = "onnx"
    vision: str = GATE_PRECISION
    decoder: str = GATE_PRECISION

    @property
    def exact(self) -> bool:
        """Whether every difference beyond a tie is a fault."""
        return self.name == GATE_PRECISION

    def load(self, folder: Path, limits: Limits = NOTHING_KEPT) -> VLM:
        """An artifact that answers so; nothing of one answer is left for the next, unless other
        limits are given."""
        return VLM.load(
            folder,
            decoder=self.engine,
            vision_precision=self.vision,
            decoder_precision=self.decoder,
            settings=EngineSettings(threads=1),
            limits=limits,
            check="sizes",
        )


def checkpoints() -> list[str]:
    """The demo, whose weights are trained, and every family's tiny random weights."""
    tiny = [name for name in (*PRESETS, *HUB_PRESETS) if name.startswith("tiny-")]
    return [DEMO, *tiny]


def form_of(name: str) -> Form:
    """What questions to a checkpoint may be."""
    return _FORMS.get(name, Form())


def settings_of(folder: Path) -> Iterator[Setting]:
    """Every setting of an artifact: one that is not exact at a time, and the pair."""
    manifest = Artifact.open(folder, "sizes").manifest
    vision, decoder = manifest.vision.graphs[manifest.pruning.default_budget], manifest.decoder
    yield Setting(GATE_PRECISION)
    for name in vision:
        if name != GATE_PRECISION:
            yield Setting(f"{name} tower", vision=name)
    for name in (*decoder.graphs, PAIR):
        if name != GATE_PRECISION and {*name.split("+")} <= {*decoder.graphs}:
            yield Setting(name, decoder=name)
    for name in decoder.gguf:
        yield Setting(f"llama.cpp {name}", "llama.cpp", decoder=name)


def artifact_of(build: Path, name: str, method: str) -> tuple[str, Path]:
    """The checkpoint and its artifact, each made where it is not there yet."""
    checkpoint = DEMO if name == DEMO else str(_checkpoint(build, name))
    folder = build / f"{name}-{method}"
    if not folder.exists():
        has_pictures = form_of(name).medium != "video"  # on which alone ranges are measured
        options = ExportOptions(
            pruner=NONE if method == NONE else None,
            vision_precisions=names_for("vision", calibrated=has_pictures),
            decoder_precisions=names_for("decoder"),
            calibration=_calibration(build, name) if has_pictures else None,
        )
        if _has_gguf(checkpoint):
            options = replace(options, decoder="both", gguf_types=tuple(GGUF_TYPES))
        _export(checkpoint, folder, options, KeptFiles(build / f"{name}-kept"))
    return checkpoint, folder


def _export(checkpoint: str, folder: Path, options: ExportOptions, kept: KeptFiles) -> None:
    """Export, without lossy GGUF types where the gate refuses one: random weights prefer no token
    clearly."""
    try:
        export(checkpoint, folder, options, kept=kept)
    except ParityError as refusal:
        if not options.gguf_types:
            raise
        click.echo(f"{folder.name} in GGUF {GATE_GGUF_TYPE} only: {refusal}", err=True)
        export(checkpoint, folder, replace(options, gguf_types=(GATE_GGUF_TYPE,)), kept=kept)


def _has_gguf(checkpoint: str) -> bool:
    """Whether llama.cpp reads its decoder."""
    try:
        architecture(inspect_checkpoint(checkpoint).spec.decoder)
    except CheckpointError:
        return False
    return True


def _checkpoint(build: Path, name: str) -> Path:
    folder = build / name
    if not folder.exists():
        with new_folder(folder) as made:
            make_checkpoint(PRESETS.get(name) or HUB_PRESETS[name], made)
    return folder


def _calibration(build: Path, name: str) -> Path:
    """Pictures on which the ranges of activations are measured."""
    folder = build / f"{name}-pictures"
    if not folder.exists():
        with new_folder(folder) as made:
            form = replace(form_of(name), pictures=1, turns=False, system=False)
            for number, messages in enumerate(draw(1, _CALIBRATION, form, lambda _: True)):
                messages[-1]["content"][0]["image"].save(made / f"{number}.png")
    return folder
