"""Knows how a checkpoint's components become files: each is loaded, written and freed before the
next."""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from pocketvlm.artifact import SCHEMA_VERSION, metadata
from pocketvlm_export.gguf import WRITTEN_TYPES, quantize_gguf, write_gguf
from pocketvlm_export.graphs import (
    DecoderGraph,
    EmbedTokensGraph,
    FastVDecoderGraph,
    Graph,
    PrunedVisionEncoder,
    VisionEncoderGraph,
    trace,
)
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.memory import release_memory
from pocketvlm_export.onnx_passes import (
    LOGITS,
    PRECISION_PASSES,
    AddConstants,
    ExternalWeights,
    NameSelection,
    Stamp,
    TieHead,
    UntieHead,
    WeightsFile,
    fuse,
    tidy,
)
from pocketvlm_export.options import GATE_GGUF_TYPE
from pocketvlm_export.packaging import eos_token_ids
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS

Step = Callable[[str], None]  # called with what begins now


def build_graphs(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, step: Step) -> None:
    """Write every graph of ``plan`` under ``folder``; at most one component is in memory at any
    time."""
    (folder / "onnx").mkdir()
    build_vision(checkpoint, plan, folder, step)
    if plan.decoder:
        build_embedding(
            checkpoint, plan, folder, step, build_decoder(checkpoint, plan, folder, step)
        )


def build_vision(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, step: Step) -> None:
    """Write the vision graphs of all budgets, which share one weights file a precision."""
    family, spec = checkpoint.family, checkpoint.spec
    # Eager attention, here and below, traces to plain MatMul and Softmax; sdpa's decomposition adds
    # detours and guards.
    tower = family.load_tower(checkpoint.weights, spec, layers=spec.vision.depth, attention="eager")
    projector = family.load_projector(checkpoint.weights, spec)
    constants = family.load_constants(checkpoint.weights, spec) if plan.layout.constants else {}
    shared: dict[str, WeightsFile] = {}
    for budget in plan.budgets:
        step(f"vision graph, {budget} of {spec.vision.tokens} tokens")
        module = PrunedVisionEncoder(tower, projector, spec.vision, plan.pruner, budget)
        graph = VisionEncoderGraph(module, constants)
        stamps = {metadata.PRUNER: plan.pruner.name, metadata.BUDGET: str(budget)}
        _write(graph, plan, plan.vision[budget], folder, stamps, shared)
    del tower, projector, module, graph
    release_memory()


def build_embedding(
    checkpoint: Checkpoint,
    plan: ExportPlan,
    folder: Path,
    step: Step,
    decoder: Mapping[str, WeightsFile],
) -> None:
    """Write the embedding graph; a tied table whose bytes the ``decoder``'s weights have is not
    stored again."""
    step("embedding graph")
    graph = EmbedTokensGraph(checkpoint.family.load_embedding(checkpoint.weights, checkpoint.spec))
    own = {
        name: WeightsFile(_weights_path(folder, file), decoder.get(name))
        for name, file in plan.embed.items()
    }
    _write(graph, plan, plan.embed, folder, {}, own)
    del graph
    release_memory()


def build_decoder(
    checkpoint: Checkpoint, plan: ExportPlan, folder: Path, step: Step
) -> dict[str, WeightsFile]:
    """Write the decoder graph; returns its weights files, without those that are removed before
    publishing."""
    step("decoder graph")
    model = checkpoint.family.load_decoder(checkpoint.weights, checkpoint.spec, attention="eager")
    written: dict[str, WeightsFile] = {}
    graph: Graph = DecoderGraph(model, checkpoint.spec.decoder)
    stamps: dict[str, str] = {}
    if fastv := plan.options.fastv:
        graph = FastVDecoderGraph(model, checkpoint.spec.decoder, fastv)
        stamps[metadata.FASTV] = f"{fastv.layer},{fastv.keep}"
    _write(graph, plan, plan.decoder, folder, stamps, written)
    del model, graph
    release_memory()
    return {name: file for name, file in written.items() if plan.decoder[name] not in plan.extra}


def build_gguf(checkpoint: Checkpoint, plan: ExportPlan, folder: Path, step: Step) -> None:
    """Write the decoder as GGUF in each type of ``plan``; ``folder`` holds the tokenizer's files by
    now.

    float32 comes first: llama.cpp makes the quantized ones of it.
    """
    (folder / "gguf").mkdir()
    source = folder / plan.gguf[GATE_GGUF_TYPE]
    for kind in sorted(plan.gguf, key=lambda name: name != GATE_GGUF_TYPE):
        path = folder / plan.gguf[kind]

        def show(part: float, kind: str = kind) -> None:
            step(f"decoder as GGUF {kind}, {part:.0%}")

        show(0.0)
        if kind in WRITTEN_TYPES:
            write_gguf(checkpoint, folder, path, kind, eos_token_ids(checkpoint)[0], show)
        else:
            quantize_gguf(source, path, kind, plan.gguf_size(kind), show)


def _write(
    graph: Graph,
    plan: ExportPlan,
    files: Mapping[str, str],
    folder: Path,
    stamps: Mapping[str, str],
    shared: dict[str, WeightsFile],
) -> None:
    """Trace ``graph`` and write it at each precision of ``files``; ``shared`` holds the weights
    files to append to.

    float32 comes first: other precisions are then converted from its file, not from the traced
    module.
    """
    model = trace(graph)
    tidy(model, graph.output_axes)
    AddConstants(graph.constants)(model)
    if not plan.options.portable:
        fuse(model, graph.kind)
    tied = plan.spec.decoder.tied and LOGITS in graph.output_names
    if tied:
        TieHead()(model)
    Stamp({metadata.GRAPH: graph.kind, metadata.SCHEMA: SCHEMA_VERSION, **stamps})(model)
    for precision in sorted(files, key=lambda name: name != GATE_PRECISION):
        path = folder / files[precision]
        weights = shared.setdefault(precision, WeightsFile(_weights_path(folder, files[precision])))
        variant = model if precision == GATE_PRECISION else model.clone()
        if tied and not PRECISIONS[precision].floats:
            UntieHead()(variant)
        if precision != GATE_PRECISION:
            PRECISION_PASSES[precision]()(variant)
        NameSelection()(variant)
        ExternalWeights(weights)(variant)
        ir.save(variant, path)


def _weights_path(folder: Path, graph: str) -> Path:
    return (folder / graph).with_suffix(".onnx_data")
