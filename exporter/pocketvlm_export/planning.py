"""Knows how an export is planned: everything that can be refused is, before anything is built."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pocketvlm.errors import RequestError
from pocketvlm.layouts import Layout, Medium, make_layout
from pocketvlm.text.messages import PLURALS
from pocketvlm_export.calibration import choose_pictures
from pocketvlm_export.checkpoint import read_generation
from pocketvlm_export.decoder_stages.settle import check_scores, settle_decoder_stages
from pocketvlm_export.families import VLMSpec
from pocketvlm_export.gguf import architecture, context_length
from pocketvlm_export.gguf_types import GATE_GGUF_TYPE
from pocketvlm_export.layouts import (
    budgets_within,
    longest,
    pick_layout,
    setting,
    under_used_caps,
)
from pocketvlm_export.loading import Checkpoint, reading
from pocketvlm_export.memory import estimate_peak
from pocketvlm_export.options import ExportOptions, check_budgets
from pocketvlm_export.packaging import pictures_config
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS
from pocketvlm_export.pruning import PLUGINS, make_pruner, usable_pruners
from pocketvlm_export.pruning.base import ATTENTION, TEXT, WITH_TEXT, Pruner
from pocketvlm_export.tower_stages.rules import (
    check_budgets_behind,
    default_budget,
    settle_tower_stages,
)

# tokens that a context must hold beside a picture: the parity gate's question, and its answer
_LEAST_TEXT = 64
_VISION = "vision_encoder"  # the vision graphs of the medium that an artifact reads by default


def make_plan(checkpoint: Checkpoint, options: ExportOptions) -> ExportPlan:
    """Decide what to write.

    Raises:
        PocketVLMError: a method, budget, layout, context or engine that this checkpoint cannot
            serve, or more memory than was allowed.
    """
    PLUGINS.check_own(options.pruner or "")  # asked for: a family's default is what it always was
    own, *others = options.media or (checkpoint.family.medium,)
    plan = _plan_of(reading(checkpoint, own), options)
    plan = _calibrated(plan, reads=(plan.spec.family.medium, *others))
    beside = {medium: _beside(plan, medium) for medium in others}
    if not beside:
        return plan
    context = _context(plan.context, options, max(map(_longest, (plan, *beside.values()))))
    plan = replace(plan, context=context, beside=beside)
    _check_limit(plan)
    return plan


def _calibrated(plan: ExportPlan, reads: Iterable[Medium]) -> ExportPlan:
    """``plan`` with the pictures that its activations are measured on, where that was asked for."""
    folder = plan.options.calibration
    if folder is None:
        return plan
    if others := [medium for medium in reads if medium != "image"]:
        raise RequestError(
            f"activations are calibrated on pictures, and this export reads {PLURALS[others[0]]}",
            advice="choose another vision precision, or --media image where there is a choice",
            setting="calibration",
        )
    layout: Layout[Any] = make_layout(setting(plan.spec, plan.layout), pictures_config(plan))
    return replace(plan, calibration=choose_pictures(folder, layout))


def _beside(plan: ExportPlan, medium: Medium) -> ExportPlan:
    """Plan the vision graphs of a further medium by the same method, and nothing else.

    A picture or frame that has fewer tokens than a budget keeps them all; where nothing is pruned
    the budget is all of its own.
    """
    checkpoint, options = reading(plan.checkpoint, medium), plan.options
    most = _sized(checkpoint, options).vision.tokens
    within = tuple(dict.fromkeys(min(budget, most) for budget in plan.budgets))
    other = _plan_of(
        checkpoint,
        replace(
            options,
            pruner=plan.pruner.name,
            pruner_options={name: str(value) for name, value in plan.pruner.options.items()},
            budgets=within if plan.pruner.prunes else (),
            total_budgets=(),
            layout=None,
            media=(),
        ),
        graph=f"{medium}_encoder",
    )
    return replace(other, embed={}, decoder={}, gguf={})


def _longest(plan: ExportPlan) -> int:
    return longest(plan.spec, plan.layout, max(plan.budgets))


def _plan_of(checkpoint: Checkpoint, options: ExportOptions, graph: str = _VISION) -> ExportPlan:
    """Plan an export of one medium, whose vision graphs are called ``graph``."""
    family = checkpoint.family
    spec = family.capped(_sized(checkpoint, options), options.caps.known(family.caps))
    pruner = make_pruner(
        options.pruner or family.default_pruner(spec),
        options.pruner_options,
        merge_dropped=options.merge_dropped,
    )
    _check_pruner(pruner, spec)
    _check_merging(pruner, spec, asked=options.merge_dropped)
    _check_table(options, pruner)
    layout = pick_layout(spec, options.layout, prunes=pruner.prunes)
    spec = under_used_caps(spec.under(layout), layout, options.caps)
    checkpoint = replace(checkpoint, spec=spec)
    requested = options.budgets or budgets_within(spec, layout, options.total_budgets)
    tokens = spec.vision.tokens
    stages = settle_tower_stages(options.tower_stages, spec, pruner)
    budgets = check_budgets(requested, tokens, default_budget(pruner, tokens, stages))
    check_budgets_behind(stages, budgets)
    if not pruner.prunes and budgets != (tokens,):
        raise RequestError(
            f"pruner {pruner.name} keeps all {tokens} tokens, but the budget says {budgets[0]}",
            advice="leave the budget out or choose a pruner",
            setting="budget",
        )
    most = longest(spec, layout, max(budgets))
    vision, embed, decoder = _bytes(checkpoint)
    onnx, llama_cpp = "onnx" in options.engines, "llama.cpp" in options.engines
    guided = TEXT in pruner.reads
    if llama_cpp:
        architecture(spec.decoder)  # refuses what llama.cpp cannot run
    plan = ExportPlan(
        checkpoint=checkpoint,
        pruner=pruner,
        layout=layout,
        budgets=budgets,
        options=options,
        generation=read_generation(checkpoint.source.folder, spec.config, vocab=spec.decoder.vocab),
        vision={
            budget: _vision_names(graph, budgets[0] if guided else budget, budgets, options)
            for budget in budgets
        },
        selectors=_selector_names(graph, budgets) if guided else {},
        embed=_names("embed_tokens", options.embed) if onnx or guided else {},
        decoder=_names(_decoder_name(options), options.decoder_precisions) if onnx else {},
        gguf=_gguf_names(options) if llama_cpp else {},
        context=_context(
            context_length(spec.decoder) if llama_cpp else spec.decoder.context, options, most
        ),
        vision_bytes=vision,
        embed_bytes=embed,
        decoder_bytes=decoder,
        gguf_bytes=decoder + (0 if spec.decoder.tied else embed),
        memory_bytes=estimate_peak(
            spec,
            vision,
            embed,
            decoder,
            budget=max(budgets),
            # Behind a stage the gate keeps a map more, by which it chooses.
            recorded=_recorded(pruner, spec) + bool(stages),
        ),
        tower_stages=stages,
    )
    least = min(budgets)
    stages = settle_decoder_stages(
        options.decoder_stages,
        spec,
        budget=least,
        slots=max(plan.totals()[least].values()),
        context=plan.context,
    )
    plan = replace(plan, decoder_stages=stages)
    if options.decoder_scores:
        check_scores(spec, plan.context)
    _check_limit(plan)
    return plan


def _sized(checkpoint: Checkpoint, options: ExportOptions) -> VLMSpec:
    """The checkpoint's spec for pictures of the size that is asked for. One that a device suggests
    is made to suit, or left out."""
    spec, family, size = checkpoint.spec, checkpoint.family, options.image_size
    folder = checkpoint.source.folder
    if size is not None and "image_size" in options.caps.suggested:
        size = family.suited_size(spec, size, folder)
    return spec if size is None else family.resized(spec, size, folder)


def _bytes(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Return what tower and projector, embedding, and decoder with its head take in float32."""
    count, decoder = checkpoint.weights.parameters, checkpoint.spec.decoder
    embed = 4 * decoder.vocab * decoder.hidden
    # The head is as large as the embedding; tied checkpoints store one of them or both.
    layers = count("decoder.") - count("decoder.model.embed_tokens.") - count("decoder.lm_head.")
    return 4 * (count("vision_tower.") + count("projector.")), embed, 4 * layers + embed


def _recorded(pruner: Pruner, spec: VLMSpec) -> int:
    """Layers whose attention the parity gate keeps of the checkpoint's own tower."""
    if not pruner.reads & ATTENTION:
        return 0
    return spec.vision.dimensions.layers - pruner.first_layer(spec.vision.score_layer)


def _context(own: int, options: ExportOptions, slots: int) -> int:
    """Return the longest sequence: the checkpoint's ``own``, or what is asked for where that is
    less."""
    context = own if options.context is None else min(own, options.context)
    if context < slots + _LEAST_TEXT:
        raise RequestError(
            f"context {context} does not hold a picture of {slots} tokens with {_LEAST_TEXT} "
            "tokens of text",
            advice=f"give at least {slots + _LEAST_TEXT}, or a smaller budget",
            setting="context",
        )
    return context


def _check_limit(plan: ExportPlan) -> None:
    limit, needed = plan.options.memory_limit, plan.footprint()
    if limit and needed.total > limit * 1e6:
        raise RequestError(
            f"answering is expected to take {needed.total / 1e6:.0f} MB on the device "
            f"(weights {needed.weights / 1e6:.0f}, cache of {plan.context} tokens "
            f"{needed.cache / 1e6:.0f}), the limit is {limit} MB",
            advice="choose smaller precisions or a smaller context, or export all the same "
            "with --memory-limit 0",
            setting="memory_limit",
        )


def _check_pruner(pruner: Pruner, spec: VLMSpec) -> None:
    """Settle the options that depend on the tower; refuses a method that it has nothing for."""
    pruner.settle(spec.vision)
    if "cls_row" in pruner.reads and not spec.vision.has_cls:
        others = ", ".join(other.name for other in usable_pruners() if "cls_row" not in other.reads)
        raise RequestError(
            f"the vision tower is a {spec.vision.config.model_type}, which has no [CLS] token that "
            f"{pruner.name} could rank patches by",
            advice=f"choose from {others} (--pruner received-attention comes nearest to it)",
            setting="pruner",
        )
    if TEXT in pruner.reads and (more := sorted(pruner.reads - WITH_TEXT)):
        raise RequestError(
            f"pruner {pruner.name} reads the prompt and {', '.join(more)}",
            expected=f"no more than {', '.join(sorted(WITH_TEXT))}, which its graph has",
            advice="choose another method",
            setting="pruner",
        )
    if TEXT in pruner.reads and pruner.merges:
        raise RequestError(
            f"pruner {pruner.name} reads the prompt and makes one token of several",
            expected="one of both: what selects by the prompt gives tokens as they are",
            advice="choose another method",
            setting="pruner",
        )


def _check_table(options: ExportOptions, pruner: Pruner) -> None:
    """Refuse the precision of a table that is not written: llama.cpp has its own, and only a
    question that selects is read by another."""
    names = options.embed_precisions
    if "onnx" in options.engines or TEXT in pruner.reads or names in ((), ("fp32",)):
        return
    raise RequestError(
        f"embedding precision {names[0]} is for ONNX Runtime, the decoder is for llama.cpp",
        advice="give --gguf-type instead",
        setting="embed_precision",
    )


def _check_merging(pruner: Pruner, spec: VLMSpec, *, asked: bool) -> None:
    """Refuse to merge tokens of which the decoder reads more than one feature each; ``asked`` where
    it is not the method that merges."""
    if not pruner.merges or not spec.vision.extras:
        return
    raise RequestError(
        f"{'--merge-dropped' if asked else f'pruner {pruner.name}'} makes one token of several, "
        f"and the decoder of a {spec.family.model_type} checkpoint reads further features of each "
        f"({', '.join(spec.vision.extras)}), which no method says how to merge",
        advice="leave it out" if asked else "choose a method that keeps tokens as they are",
        setting="merge_dropped" if asked else "pruner",
    )


def _decoder_name(options: ExportOptions) -> str:
    """Stock clients know the first name; what they cannot drive has another."""
    if options.decoder_scores:
        return "decoder_scores"
    return "decoder_staged" if options.decoder_stages else "decoder_model_merged"


def _vision_names(
    graph: str, budget: int, budgets: tuple[int, ...], options: ExportOptions
) -> dict[str, str]:
    return _names(graph, options.vision_precisions, "" if budget == budgets[0] else f".k{budget}")


def _selector_names(graph: str, budgets: tuple[int, ...]) -> dict[int, str]:
    """Return {budget: file}; those of a further medium bear its name."""
    own = "token_selector" if graph == _VISION else graph.replace("encoder", "selector")
    return {
        budget: f"onnx/{own}{'' if budget == budgets[0] else f'.k{budget}'}.onnx"
        for budget in budgets
    }


def _names(graph: str, precisions: Iterable[str], budget: str = "") -> dict[str, str]:
    """Return {precision: file} in the order of ``precisions``; the gate's is last where it is not
    among them."""
    return {
        precision: f"onnx/{graph}{PRECISIONS[precision].suffix}{budget}.onnx"
        for precision in (*precisions, GATE_PRECISION)
    }


def _gguf_names(options: ExportOptions) -> dict[str, str]:
    """As `_names`, {type: file}."""
    return {kind: f"gguf/decoder-{kind}.gguf" for kind in (*options.gguf, GATE_GGUF_TYPE)}
