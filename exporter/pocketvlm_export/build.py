"""Knows how a checkpoint's components become files: each is loaded, written and freed before the
next."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx_ir as ir

from pocketvlm.artifact import SCHEMA_VERSION, metadata
from pocketvlm.artifact.specs import CAUSAL
from pocketvlm.artifact.stages import stamp
from pocketvlm.files.interrupts import repeated
from pocketvlm.layouts import make_layout
from pocketvlm_export.calibration import measure_ranges
from pocketvlm_export.gguf import quantize_gguf, write_gguf
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.graphs import (
    CandidateEncoder,
    CandidatesGraph,
    DecoderGraph,
    EmbedTokensGraph,
    Graph,
    PrunedVisionEncoder,
    ScoringDecoderGraph,
    StagedDecoderGraph,
    TokenSelector,
    TokenSelectorGraph,
    VisionEncoderGraph,
    trace,
)
from pocketvlm_export.graphs.masks import is_full
from pocketvlm_export.kept_files import KeptFiles
from pocketvlm_export.layouts import constant_files, setting
from pocketvlm_export.memory import component
from pocketvlm_export.onnx_passes import (
    LOGITS,
    ExternalWeights,
    NameSelection,
    Stamp,
    TieHead,
    UntieHead,
    WeightsFile,
    fuse,
    tidy,
)
from pocketvlm_export.onnx_passes.static_int8 import Ranges
from pocketvlm_export.packaging import eos_token_ids, pictures_config
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS
from pocketvlm_export.quiet import quiet_transformers

Step = Callable[[str], None]  # called with what begins now


def build_graphs(plan: ExportPlan, folder: Path, step: Step, kept: KeptFiles | None = None) -> None:
    """Write every graph of ``plan`` under ``folder``; at most one component is in memory at any
    time. The decoder's are taken from ``kept`` where they are there, and kept there otherwise."""
    (folder / "onnx").mkdir()
    plans = (plan, *plan.beside.values())
    for each in plans:
        write_constants(each, folder)
    with quiet_transformers():
        for each in plans:
            build_vision(each, folder, step)
            build_selectors(each, folder, step)
        names = [*plan.decoder.values(), *plan.embed.values()]
        if kept is not None and kept.take(plan, "decoder", names, folder):
            return
        decoder = build_decoder(plan, folder, step) if plan.decoder else {}
        if plan.embed:
            build_embedding(plan, folder, step, decoder)
        if kept is not None:
            kept.keep(plan, "decoder", names, folder)


def write_constants(plan: ExportPlan, folder: Path) -> None:
    """Write what the layout puts between features, whatever the picture: raw float32 values,
    little-endian, a file each."""
    files = constant_files(plan.layout)
    if not files:
        return
    constants = plan.spec.family.load_constants(plan.checkpoint.weights, plan.spec)
    for name, file in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(constants[name].numpy().astype("<f4").tobytes())


def build_vision(plan: ExportPlan, folder: Path, step: Step) -> None:
    """Write the vision graphs of all budgets, which share one weights file a precision."""
    family, spec, weights = plan.spec.family, plan.spec, plan.checkpoint.weights
    shared: dict[str, WeightsFile] = {}
    # Eager attention, here and below, traces to plain MatMul and Softmax; sdpa's decomposition adds
    # detours and guards.
    with (
        component(
            family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
        ) as tower,
        component(family.load_projector(weights, spec)) as projector,
    ):
        standard = plan.options.standard(metadata.VISION_ENCODER)
        if plan.selectors:  # one graph of all tokens serves every budget
            step(f"vision graph, all {spec.vision.tokens} tokens")
            every = CandidateEncoder(tower, projector, spec.vision, portable=standard)
            files = plan.vision[plan.budgets[0]]
            _write(CandidatesGraph(every), plan, files, folder, {}, shared, step)
            return
        for budget in plan.budgets:
            step(f"vision graph, {budget} of {spec.vision.tokens} tokens")
            module = PrunedVisionEncoder(
                tower,
                projector,
                spec.vision,
                plan.pruner,
                budget,
                stages=plan.tower_stages,
                portable=standard,
            )
            graph = VisionEncoderGraph(module)
            stamps = {metadata.PRUNER: plan.pruner.name, metadata.BUDGET: str(budget)}
            if plan.tower_stages:
                stamps[metadata.STAGES] = stamp(plan.tower_stages)
            _write(graph, plan, plan.vision[budget], folder, stamps, shared, step)


def build_selectors(plan: ExportPlan, folder: Path, step: Step) -> None:
    """Write the graphs that select tokens by the prompt, where the method reads that; they have no
    weights, so there is one precision."""
    for budget, file in plan.selectors.items():
        step(f"token selector, {budget} of {plan.spec.vision.tokens} tokens")
        module = TokenSelector(plan.spec.vision, plan.pruner, budget)
        graph = TokenSelectorGraph(module, plan.spec.decoder.hidden)
        stamps = {metadata.PRUNER: plan.pruner.name, metadata.BUDGET: str(budget)}
        _write(graph, plan, {GATE_PRECISION: file}, folder, stamps, {})


def build_embedding(
    plan: ExportPlan, folder: Path, step: Step, decoder: Mapping[str, WeightsFile]
) -> None:
    """Write the embedding graph; a tied table whose bytes the ``decoder``'s weights have is not
    stored again, unless each graph is to have a file of its own."""
    step("embedding graph")
    shared = decoder if plan.options.shared_tables else {}
    own = {
        name: WeightsFile(_weights_path(folder, file), shared.get(name))
        for name, file in plan.embed.items()
    }
    with component(plan.spec.family.load_embedding(plan.checkpoint.weights, plan.spec)) as table:
        _write(EmbedTokensGraph(table), plan, plan.embed, folder, {}, own)


def build_decoder(plan: ExportPlan, folder: Path, step: Step) -> dict[str, WeightsFile]:
    """Write the decoder graph; returns its weights files, without those that are removed before
    publishing."""
    step("decoder graph")
    spec = plan.spec
    written: dict[str, WeightsFile] = {}
    with component(
        spec.family.load_decoder(plan.checkpoint.weights, spec, attention="eager")
    ) as model:
        graph: Graph = DecoderGraph(model, spec.decoder)
        stamps: dict[str, str] = {}
        if stages := plan.decoder_stages:
            graph = StagedDecoderGraph(model, spec.decoder, stages)
            stamps[metadata.STAGES] = stamp(stages)
        if plan.options.decoder_scores:
            graph = ScoringDecoderGraph(model, spec.decoder)
        _write(graph, plan, plan.decoder, folder, stamps, written)
    return {name: file for name, file in written.items() if plan.decoder[name] not in plan.extra}


def build_gguf(plan: ExportPlan, folder: Path, step: Step, kept: KeptFiles | None = None) -> None:
    """Write the decoder as GGUF in each type of ``plan``; ``folder`` holds the tokenizer's files by
    now.

    float32 comes first: llama.cpp makes the quantized ones of it. ``kept`` as of `build_graphs`.
    """
    (folder / "gguf").mkdir()
    if kept is not None and kept.take(plan, "gguf", plan.gguf.values(), folder):
        return
    source, eos = folder / plan.gguf[GATE_GGUF_TYPE], eos_token_ids(plan.checkpoint)[0]
    for kind in sorted(plan.gguf, key=lambda name: name != GATE_GGUF_TYPE):
        path, progress = folder / plan.gguf[kind], partial(_step_of_gguf, step, kind)
        progress(0.0)
        if GGUF_TYPES[kind].written:
            write_gguf(plan.checkpoint, folder, path, kind, eos, progress)
        else:
            quantize_gguf(source, path, kind, plan.gguf_size(kind), progress)
    if kept is not None:
        kept.keep(plan, "gguf", plan.gguf.values(), folder)


def _step_of_gguf(step: Step, kind: str, part: float) -> None:
    """Name the file and the part of it, up to 1, that is written."""
    step(f"decoder as GGUF {kind}, {part:.0%}")


@repeated()
def _write(
    graph: Graph,
    plan: ExportPlan,
    files: Mapping[str, str],
    folder: Path,
    stamps: Mapping[str, str],
    shared: dict[str, WeightsFile],
    step: Step = lambda _: None,
) -> None:
    """Trace ``graph`` and write it at each precision of ``files``; ``shared`` holds the weights
    files to append to.

    float32 comes first: other precisions are then converted from its file, not from the traced
    module.
    """
    model = trace(graph)
    tidy(model, graph.output_axes)
    if not plan.options.standard(graph.kind):
        decoder = plan.spec.decoder
        # Where scores are given they are numbered by the places that the mask has.
        full = is_full(decoder) and graph.kind != metadata.SCORING_DECODER
        fuse(model, graph.kind, causal=decoder.attention == CAUSAL, full=full)
    tied = plan.spec.decoder.tied and LOGITS in graph.output_names
    if tied:
        TieHead()(model)
    Stamp({metadata.GRAPH: graph.kind, metadata.SCHEMA: SCHEMA_VERSION, **stamps})(model)
    for name in sorted(files, key=lambda name: name != GATE_PRECISION):
        path, precision = folder / files[name], PRECISIONS[name]
        weights = shared.setdefault(name, WeightsFile(_weights_path(folder, files[name])))
        variant = model if name == GATE_PRECISION else model.clone()
        if tied and not precision.floats:
            UntieHead()(variant)
        if precision.calibrated:
            ranges = _ranges(plan, folder / files[GATE_PRECISION], step)
            precision.make_pass(ranges)(variant)
        elif precision.weights_pass:
            precision.make_pass()(variant)
        NameSelection()(variant)
        ExternalWeights(weights)(variant)
        ir.save(variant, path)


def _ranges(plan: ExportPlan, exact: Path, step: Step) -> Ranges:
    """Measure the activations of the float32 graph ``exact``, on pictures as a device sees them."""
    calibration = plan.calibration
    assert calibration is not None
    layout = make_layout(setting(plan.spec, plan.layout), pictures_config(plan))
    batches = calibration.batches(layout)
    return measure_ranges(exact, batches, lambda number: step(f"calibrating, batch {number}"))


def _weights_path(folder: Path, graph: str) -> Path:
    return (folder / graph).with_suffix(".onnx_data")
