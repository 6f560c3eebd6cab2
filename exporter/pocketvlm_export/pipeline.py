"""The export as a whole: open, plan, build, seal, check, publish."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pocketvlm.artifact import Artifact, Manifest
from pocketvlm.artifact.manifest import Parity
from pocketvlm.decoders.llama_cpp import library
from pocketvlm_export import ort_format
from pocketvlm_export.build import build_gguf, build_graphs
from pocketvlm_export.loading import Checkpoint, fetch, inspect_checkpoint, quiet_transformers
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.packaging import (
    UNCHECKED,
    check_destination,
    check_device_settings,
    check_keep_failed,
    check_space,
    publish,
    seal,
    staging,
    write_card,
    write_manifest,
    write_sidecars,
    write_using,
)
from pocketvlm_export.plan import ExportPlan, make_plan
from pocketvlm_export.verification import ParityError, check_parity, failures


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: where, and the manifest that was published with it."""

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
            "bytes": sum(entry.bytes for entry in self.manifest.files.values()),
            "files": {name: entry.bytes for name, entry in self.manifest.files.items()},
        }


def export(
    model: str,
    output: Path,
    options: ExportOptions | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Export ``model`` (folder, Hub id or ``demo``) to the folder ``output``, whole or not at all.

    Args:
        model: the checkpoint.
        output: where the artifact appears once it has passed the parity gate.
        options: what to export; defaults of `ExportOptions`.
        step: called with a few words whenever a step begins.

    Raises:
        PocketVLMError: the checkpoint cannot be exported, or the destination not written.
        ParityError: the graphs differ from the checkpoint; nothing was published.
    """
    return carry_out(*prepare(model, output, options or ExportOptions()), output, step)


def carry_out(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    output: Path,
    step: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Do what `prepare` found possible; arguments and errors as of `export`."""
    step("weights")
    checkpoint = fetch(checkpoint)
    target = output.resolve()  # what a link points at is replaced, not the link
    with staging(target) as folder:
        with quiet_transformers():
            build_graphs(checkpoint, plan, folder, step)
        write_sidecars(checkpoint, plan, folder)
        if plan.gguf:
            build_gguf(checkpoint, plan, folder, step)
        write_card(checkpoint, plan, folder)
        artifact_id = seal(folder, plan)
        if plan.options.format == "ort":
            step("graphs in ORT format")
            plan = ort_format.convert(plan, folder)
        step("parity gate")
        parity = run_gate(checkpoint, plan, folder, artifact_id)
        if not parity.passed:
            write_manifest(checkpoint, plan, folder, artifact_id, parity)
            reject(folder, parity, plan.options)
        remove_extra(plan, folder)
        if plan.options.format == "ort":
            ort_format.write_operators(plan, folder)
        write_using(Artifact(folder, write_manifest(checkpoint, plan, folder, artifact_id, parity)))
        manifest = write_manifest(checkpoint, plan, folder, artifact_id, parity)
        publish(folder, target)
    return ExportReport(output, manifest)


def prepare(model: str, output: Path, options: ExportOptions) -> tuple[Checkpoint, ExportPlan]:
    """Refuse what can be refused before any work is done; writes nothing and fetches no weights."""
    checkpoint = inspect_checkpoint(model, options.revision)
    plan = make_plan(checkpoint, options)
    checkpoint = replace(checkpoint, spec=plan.spec)
    if options.format == "ort":
        ort_format.check_sizes(plan)
    if plan.gguf:
        library()  # what quantizes, and what the gate runs
    check_device_settings(checkpoint, plan.layout)
    check_destination(output, checkpoint.source.folder, overwrite=options.overwrite)
    if options.keep_failed is not None:
        check_keep_failed(options.keep_failed, output, checkpoint.source.folder)
    check_space(output, plan.disk_bytes())
    return checkpoint, plan


def run_gate(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, artifact_id: str) -> Parity:
    """Check the built folder as a device would open it, before it has a passing manifest."""
    write_manifest(checkpoint, plan, folder, artifact_id, UNCHECKED)
    return check_parity(checkpoint, Artifact.open(folder, check="sizes", allow_rejected=True))


def remove_extra(plan: ExportPlan, folder: Path) -> None:
    """Remove the graphs that were built for the gate only, and their weights."""
    for file in plan.extra:
        (folder / file).unlink()
        (folder / file).with_suffix(".onnx_data").unlink(missing_ok=True)


def reject(folder: Path, parity: Parity, options: ExportOptions) -> None:
    """Keep the folder where it was asked for, graphs built for the gate included, and raise
    `ParityError`."""
    kept = "give --keep-failed DIR to look at it"
    if options.keep_failed is not None:
        shutil.move(folder, options.keep_failed)
        kept = f"the rejected folder is in {options.keep_failed}"
    raise ParityError(
        f"the graphs differ from the checkpoint ({failures(parity)}): nothing was published; {kept}"
    )
