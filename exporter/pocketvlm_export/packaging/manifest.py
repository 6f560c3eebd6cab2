"""Knows how an artifact's manifest is filled in: what was exported, from where, with which
checksums."""

import dataclasses
import functools
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import onnx

from pocketvlm.artifact import MANIFEST_NAME, FileEntry, Manifest, files_digest, metadata
from pocketvlm.artifact.integrity import sha256_of
from pocketvlm.artifact.specs import (
    CAUSAL,
    Constant,
    DecoderSpec,
    MediumSpec,
    Parity,
    Pruning,
    SelfTest,
    Source,
    Tower,
    Vision,
)
from pocketvlm.errors import CheckpointError
from pocketvlm.layouts import Medium
from pocketvlm_export.checkpoint.places import END_OF_ANSWER, first
from pocketvlm_export.families.spec import VisionSpec
from pocketvlm_export.layouts import constant_files
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.onnx_passes import TWO_WAY_RUNTIME
from pocketvlm_export.packaging.card import source_license
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.pruning import PLUGINS

_TOOLS = ("pocketvlm", "torch", "transformers", "onnx", "onnxscript")
_GGUF_TOOLS = ("gguf", "llama-cpp-python")
_REQUIRES = {"onnxruntime": ">=1.24"}
# Neither the manifest itself nor the model card, which people edit.
_NOT_LISTED = {MANIFEST_NAME, "README.md"}
UNCHECKED = Parity(passed=False, reference="transformers fp32")


def seal(plan: ExportPlan, folder: Path) -> str:
    """Compute the artifact id and stamp it into every graph; returns the id.

    The id is the digest of the table of published files as it is before stamping: a graph
    cannot contain its own hash.
    """
    published = {
        name: entry for name, entry in files_table(folder).items() if name not in plan.extra
    }
    artifact_id = files_digest(published)
    for path in sorted(folder.glob("onnx/*.onnx")):
        # Weights in data files are references here and stay unread.
        model = onnx.load(path, load_external_data=False)
        onnx.helper.set_model_props(
            model,
            {
                **{prop.key: prop.value for prop in model.metadata_props},
                metadata.ARTIFACT_ID: artifact_id,
            },
        )
        onnx.save(model, path)
    return artifact_id


def make_manifest(
    plan: ExportPlan,
    folder: Path,
    artifact_id: str,
    parities: Mapping[Medium, Parity],
    self_tests: Mapping[Medium, SelfTest] | None = None,
) -> Manifest:
    """Return the manifest of the files that lie in ``folder`` now, validated as a device would; it
    is not written, see `write_manifest`. A medium without a parity is unchecked, and one without a
    self-test has none."""
    tests = self_tests or {}
    present = files_table(folder)
    spec, source = plan.spec, plan.checkpoint.source
    manifest = Manifest(
        artifact_id=artifact_id,
        source=Source(
            source.name, spec.family.model_type, source.commit, source_license(source.folder)
        ),
        pruning=_pruning(plan),
        vision=_vision(plan, present),
        decoder=DecoderSpec(
            engines=plan.options.engines,
            default_engine=plan.options.engines[0],
            default_precisions=plan.options.default_precisions,
            pair=plan.options.pair,
            embed=_present(plan.embed, present),
            graphs=_present(plan.decoder, present),
            tables={
                precision: plan.options.table(precision)
                for precision in _present(plan.decoder, present)
            },
            gguf=_present(plan.gguf, present),
            positions=spec.decoder.positions,
            extras=spec.decoder.extras,
            first_position=spec.decoder.first_position,
            attention=spec.decoder.attention,
            picture_text=spec.picture_text,
            conv_layers=spec.decoder.conv_layers,
            conv_width=spec.decoder.conv_width,
            stages=plan.decoder_stages,
            scores=plan.options.decoder_scores,
            layers=spec.decoder.layers,
            heads=spec.decoder.heads,
            kv_heads=spec.decoder.kv_heads,
            head_dim=spec.decoder.head_dim,
            hidden=spec.decoder.hidden,
            intermediate=spec.decoder.config.intermediate_size,
            vocab=spec.decoder.vocab,
            context=plan.context,
            image_token_id=spec.image_token_id,
            eos_token_ids=eos_token_ids(plan.checkpoint),
        ),
        media={
            medium: MediumSpec(
                other.spec.image_token_id,
                _pruning(other),
                _vision(other, present),
                parities.get(medium, UNCHECKED),
                tests.get(medium),
            )
            for medium, other in plan.beside.items()
        },
        generation=plan.generation,
        parity=parities.get(spec.family.medium, UNCHECKED),
        self_test=tests.get(spec.family.medium),
        files=present,
        created_by=_created_by(plan),
        requires=_requires(plan),
    )
    return Manifest.from_json(manifest.to_json())


def _created_by(plan: ExportPlan) -> dict[str, str]:
    """Versions of the packages that made it, that of a method from elsewhere among them."""
    tools = (*_TOOLS, *(_GGUF_TOOLS if plan.gguf else ()))
    package = PLUGINS.package(plan.pruner.name)
    return {name: version(name) for name in tools} | dict([package] if package else [])


def _requires(plan: ExportPlan) -> Mapping[str, str]:
    """What the graphs need to be run; portable ones have no operator of ONNX Runtime's own."""
    fused = bool(plan.decoder) and not plan.options.portable
    two_way = fused and plan.spec.decoder.attention != CAUSAL
    return {**_REQUIRES, "onnxruntime": TWO_WAY_RUNTIME} if two_way else _REQUIRES


def _pruning(plan: ExportPlan) -> Pruning:
    return Pruning(
        method=plan.pruner.name,
        options=plan.pruner.options,
        nested=plan.pruner.nested,
        merge_dropped=plan.options.merge_dropped,
        tokens_before=plan.spec.vision.tokens,
        budgets=plan.budgets,
        default_budget=plan.budgets[0],
    )


def _vision(plan: ExportPlan, present: Mapping[str, FileEntry]) -> Vision:
    spec = plan.spec
    return Vision(
        spec.vision.image_size,
        {budget: _present(files, present) for budget, files in plan.vision.items()},
        plan.options.vision_precisions[0],
        _tower(spec.vision),
        layout=plan.layout.stated,
        constants={
            name: Constant(file, (spec.decoder.hidden,))
            for name, file in constant_files(plan.layout).items()
        },
        totals={str(budget): by_grid for budget, by_grid in plan.totals().items()},
        caps=spec.caps.given,
        extras=spec.vision.extras,
        stages=plan.tower_stages,
        selectors=plan.selectors,
        selector_table=plan.selector_table,
        made_for=spec.vision.made_for,
    )


def write_manifest(manifest: Manifest, folder: Path) -> Manifest:
    """Write pocketvlm.json into ``folder``, the last of its files, with every other in its table;
    returns it as it was written."""
    manifest = dataclasses.replace(manifest, files=files_table(folder))
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _tower(spec: VisionSpec) -> Tower:
    tower = spec.dimensions
    return Tower(
        spec.depth,
        tower.hidden,
        tower.intermediate,
        spec.sequence,
        tower.mlp_matrices,
        tower.window,
        # The layers above the deepest feature are not exported.
        min(tower.windowed_layers, spec.depth),
    )


def files_table(folder: Path) -> dict[str, FileEntry]:
    """Return size and SHA-256 of every file under ``folder`` that a runtime may read, by relative
    name."""
    paths = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in _NOT_LISTED
    )
    return {path.relative_to(folder).as_posix(): _entry(path) for path in paths}


def _entry(path: Path) -> FileEntry:
    info = path.stat()
    return FileEntry(info.st_size, _sha256(path, info.st_size, info.st_mtime_ns))


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once for as long as it stays the same: weights are large, and in every table."""
    return sha256_of(path)


def eos_token_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the ids that end an answer: the generation configuration's, else the decoder's.

    Raises:
        PocketVLMError: neither names any, or one that is not a token's.
    """
    listed = first(checkpoint.source.folder, END_OF_ANSWER)
    if listed is None:
        listed = checkpoint.spec.decoder.config.eos_token_id
    if listed is None:
        raise CheckpointError(
            f"{checkpoint.source.folder} names no eos_token_id",
            advice="add it to generation_config.json",
        )
    ids = tuple(listed) if isinstance(listed, list) else (listed,)
    vocab = checkpoint.spec.decoder.vocab
    if not ids or not all(type(token) is int and 0 <= token < vocab for token in ids):
        raise CheckpointError(
            f"{checkpoint.source.folder} has eos_token_id {listed!r}",
            expected=f"ids of its vocabulary, 0..{vocab - 1}",
            advice="correct it in generation_config.json",
        )
    return ids


def _present(files: Mapping[str, str], table: Mapping[str, FileEntry]) -> dict[str, str]:
    return {precision: file for precision, file in files.items() if file in table}
