"""The export as a whole: open, plan, build, seal, check, test, publish."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pocketvlm.artifact import Artifact, Manifest
from pocketvlm.artifact.specs import Parity, SelfTest
from pocketvlm.decoders.llama_cpp import library
from pocketvlm.errors import ArtifactError, EngineError
from pocketvlm.files import interrupts, real_path, user_path
from pocketvlm.files.folders import put_in_place, staged
from pocketvlm.layouts import Medium
from pocketvlm.selftest.reading import read_expected
from pocketvlm.text.messages import PLURALS
from pocketvlm_export import ort_format, packaging
from pocketvlm_export.build import Step, build_gguf, build_graphs
from pocketvlm_export.kept_files import KeptFiles
from pocketvlm_export.loading import fetch, inspect_checkpoint
from pocketvlm_export.memory import collecting_own_garbage
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.planning import make_plan
from pocketvlm_export.selftest import write_self_test
from pocketvlm_export.verification import (
    ParityError,
    check_parity,
    failures,
    vision_alone,
)


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: where, and the manifest that was published with it.

    >>> from pocketvlm import Artifact
    >>> from pocketvlm_export import ExportReport
    >>> artifact = Artifact.open("demo-vlm")
    >>> report = ExportReport(artifact.root, artifact.manifest)
    >>> report.to_dict()["pruning"]["method"]
    'scope'

    Attributes:
        output: the folder.
        manifest: what is in it, with the figures of the parity gate.
    """

    output: Path
    manifest: Manifest

    def to_dict(self) -> dict[str, Any]:
        """Return what ``export --json`` prints."""
        data = self.manifest.to_dict()
        return {
            "output": str(self.output),
            "artifact_id": data["artifact_id"],
            "pruning": data["pruning"],
            "totals": data["vision"]["totals"],
            "parity": data["parity"],
            **({"media": data["media"]} if "media" in data else {}),
            "bytes": sum(entry.bytes for entry in self.manifest.files.values()),
            "files": {name: entry.bytes for name, entry in self.manifest.files.items()},
        }


@interrupts.heeded()
@collecting_own_garbage()
def export(
    model: str,
    output: str | os.PathLike[str],
    options: ExportOptions | None = None,
    step: Step = lambda _: None,
    planned: Callable[[ExportPlan], None] = lambda _: None,
    kept: KeptFiles | None = None,
) -> ExportReport:
    """Export ``model`` (folder, Hub id or ``demo``) to the folder ``output``, whole or not at all.

    >>> from pocketvlm_export import ExportOptions, export
    >>> report = export("demo-guide", "guide-alone", ExportOptions("uniform", budgets=(14,)))
    >>> report.output.name, report.manifest.pruning.budgets
    ('guide-alone', (14,))

    Args:
        model: the checkpoint.
        output: where the artifact appears once it has passed the parity gate.
        options: what to export; defaults of `ExportOptions`.
        step: called with a few words whenever a step begins.
        planned: called with the plan once nothing refuses it, before any work is done.
        kept: files of the decoder that other exports of the same checkpoint share.

    Raises:
        PocketVLMError: the checkpoint cannot be exported, or the destination not written.
        ParityError: the graphs differ from the checkpoint; nothing was published.
    """
    output = user_path(output)
    target = real_path(output)  # what a link points at is replaced, not the link
    options = options or ExportOptions()
    before = packaging.replaceable(target, overwrite=options.overwrite)
    plan = prepare(model, output, options)  # open and plan
    planned(plan)
    step = _interruptible(step)
    with staged(target) as folder:
        plan = build(plan, folder, step, kept)
        plan, artifact_id = seal(plan, folder, step)
        parities = check(plan, artifact_id, folder, step)
        self_tests = self_test(plan, artifact_id, folder, step)
        manifest = finish(plan, artifact_id, parities, folder, self_tests)
        interrupts.check()
        put_in_place(folder, target, before)
    return ExportReport(output, manifest)


def _interruptible(step: Step) -> Step:
    """``step``, where an interrupt that a library lost ends the export."""

    def begin(text: str) -> None:
        interrupts.check()
        step(text)

    return begin


def prepare(model: str, output: Path, options: ExportOptions) -> ExportPlan:
    """Open ``model`` and plan its export, refusing all that can be refused before any work is done.

    Writes nothing and fetches no weights. Arguments and errors as of `export`.
    """
    plan = make_plan(inspect_checkpoint(model, options.revision), options)
    source = plan.checkpoint.source.folder
    if options.format == "ort":
        ort_format.check_sizes(plan)
    if plan.gguf:
        library()  # what quantizes, and what the gate runs
    packaging.check_device_settings(plan)
    packaging.check_destination(output, source, overwrite=options.overwrite)
    if options.keep_failed is not None:
        packaging.check_keep_failed(options.keep_failed, output, source)
    packaging.check_space(output, plan.disk_bytes())
    return plan


def build(plan: ExportPlan, folder: Path, step: Step, kept: KeptFiles | None = None) -> ExportPlan:
    """Fetch the weights and write graphs, side files and model card into ``folder``; returns the
    plan with the weights that are now on this machine."""
    step("weights")
    plan = replace(
        plan,
        checkpoint=fetch(plan.checkpoint),
        beside={
            medium: replace(other, checkpoint=fetch(other.checkpoint))
            for medium, other in plan.beside.items()
        },
    )
    build_graphs(plan, folder, step, kept)
    packaging.write_sidecars(plan, folder)
    if plan.gguf:
        build_gguf(plan, folder, step, kept)
    packaging.write_card(plan, folder)
    return plan


def seal(plan: ExportPlan, folder: Path, step: Step) -> tuple[ExportPlan, str]:
    """Stamp the artifact id into every graph, then convert the graphs where another format is asked
    for. Returns the plan with the names of the files, and the id."""
    artifact_id = packaging.seal(plan, folder)
    if plan.options.format == "ort":
        step("graphs in ORT format")
        plan = ort_format.convert(plan, folder)
    return plan, artifact_id


def check(plan: ExportPlan, artifact_id: str, folder: Path, step: Step) -> dict[Medium, Parity]:
    """Hold the folder against the checkpoint, as a device would open it, by medium; raises
    `ParityError`.

    A folder that fails is kept where that was asked for, graphs built for the gate included.
    """
    step("parity gate")
    parities: dict[Medium, Parity] = {}
    manifest = packaging.make_manifest(plan, folder, artifact_id, parities)
    plans = {plan.spec.family.medium: plan, **plan.beside}
    try:
        with interrupts.repeated():
            for medium, each in plans.items():
                part = Artifact(folder, manifest).reading(medium)
                parities[medium] = check_parity(
                    each.checkpoint, part if each is plan else vision_alone(part)
                )
    except (ArtifactError, EngineError) as refusal:  # no device would take it either
        _reject(manifest, folder, plan.options, f"a runtime refuses them: {refusal.reason}")
    if failed := [medium for medium, parity in parities.items() if not parity.passed]:
        manifest = packaging.make_manifest(plan, folder, artifact_id, parities)
        reasons = [
            (f"{PLURALS[medium]}: " if plan.beside else "") + failures(parities[medium])
            for medium in failed
        ]
        _reject(manifest, folder, plan.options, "; ".join(reasons))
    return parities


def self_test(
    plan: ExportPlan, artifact_id: str, folder: Path, step: Step
) -> dict[Medium, SelfTest]:
    """Write what the graphs of a folder that has passed the gate compute of a small picture, by
    medium: what a device is compared with. Returns what the manifest says of it."""
    step("self-test")
    manifest = packaging.make_manifest(plan, folder, artifact_id, {})
    plans = {plan.spec.family.medium: plan, **plan.beside}
    with interrupts.repeated():
        return {
            medium: write_self_test(
                Artifact(folder, manifest).reading(medium),
                medium,
                lambda file: file not in plan.extra,
            )
            for medium in plans
        }


def finish(
    plan: ExportPlan,
    artifact_id: str,
    parities: Mapping[Medium, Parity],
    folder: Path,
    self_tests: Mapping[Medium, SelfTest] | None = None,
) -> Manifest:
    """Remove what was built for the gate only, and write what describes the rest: the operators
    needed, USING.md and, last, the manifest, which is returned."""
    for file in plan.extra:
        (folder / file).unlink()
        (folder / file).with_suffix(".onnx_data").unlink(missing_ok=True)
    if plan.options.format == "ort":
        ort_format.write_operators(folder)
    manifest = packaging.make_manifest(plan, folder, artifact_id, parities, self_tests)
    artifact = Artifact(folder, manifest)
    for medium in self_tests or ():
        read_expected(artifact.reading(medium))  # as a device will
    packaging.write_using(artifact)
    return packaging.write_manifest(manifest, folder)


def _reject(manifest: Manifest, folder: Path, options: ExportOptions, failed: str) -> NoReturn:
    """Keep the folder where it was asked for, and raise `ParityError` with what ``failed``."""
    reason = f"the graphs differ from the checkpoint ({failed})"
    if options.keep_failed is None:
        raise ParityError(
            f"{reason}, nothing was published", advice="give --keep-failed DIR to look at it"
        )
    packaging.write_manifest(manifest, folder)
    packaging.keep(folder, options.keep_failed)
    raise ParityError(
        f"{reason}, nothing was published and the rejected folder is in {options.keep_failed}"
    )
