"""Knows which variants of a checkpoint are worth measuring, and what is left out."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, Self

from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import RequestError
from pocketvlm.layouts import make_layout
from pocketvlm_export.candidates.costs import expected_seconds
from pocketvlm_export.candidates.identity import identity_of
from pocketvlm_export.caps import Caps
from pocketvlm_export.families.picture_size import Size, smaller_sizes
from pocketvlm_export.gguf_types import GGUF_TYPES
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import Checkpoint, inspect_checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.planning import make_plan
from pocketvlm_export.precisions import GATE_PRECISION, PRECISIONS
from pocketvlm_export.pruning import KEEPS_ALL, TUNED, find_pruner
from pocketvlm_targets import DECODERS

_PARTS = (2, 4, 8)  # of the tokens: budgets are a half, a quarter, an eighth
_VISION = (GATE_PRECISION, "int8")
_DECODER = ("int8", "int4")
# The stage of a tower that is tried by itself: before this part of its layers half of the rows
# leave. On the demo's grid it lost least of what saves a fifth of the tower's work and more.
_STAGE_AT, _STAGE_KEEPS = 2 / 5, 1 / 2
_CAPS = ("max_pixels", "max_tiles")  # on pictures, that may be lowered when an artifact answers
_PART = 12  # hex digits of an identity that a folder is named by


@dataclass(frozen=True)
class Wishes:
    """What a grid is restricted to; an empty field leaves the choice here.

    Attributes:
        methods: names of pruning methods.
        tower_stages: plans of a tower, each the texts of its stages; an empty plan has none.
        budgets: visual tokens kept per picture or tile.
        vision_precisions, decoder_precisions: the most exact one is the baseline's; of the decoder
            GGUF types too.
        max_pixels, max_tiles: caps on pictures.
        image_sizes: (height, width) of all pictures or tiles, each smaller than the checkpoint's
            own, which is tried too; none means that alone.
        options: further fields of `ExportOptions`, such as ``portable``.
    """

    methods: tuple[str, ...] = ()
    tower_stages: tuple[tuple[str, ...], ...] = ()
    budgets: tuple[int, ...] = ()
    vision_precisions: tuple[str, ...] = ()
    decoder_precisions: tuple[str, ...] = ()
    max_pixels: int | None = None
    max_tiles: int | None = None
    image_sizes: tuple[Size, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Read keyword arguments; raises `RequestError` for one that there is not."""
        names = {each.name for each in dataclasses.fields(cls)}
        if unknown := sorted(set(given) - names):
            raise RequestError(
                f"no wish {unknown[0]!r}", expected=f"one of {', '.join(sorted(names))}"
            )
        return cls(**given)

    @property
    def base(self) -> ExportOptions:
        """What all variants have in common."""
        portable = bool(self.options.get("portable"))
        engines = DECODERS.get(self.options.get("decoder", ExportOptions.decoder), ())
        types = tuple(name for name in self.decoder_precisions if name in GGUF_TYPES)
        named = tuple(name for name in self.decoder_precisions if name not in types)
        own = [name for name in _DECODER if PRECISIONS[name].standard or not portable]
        decoders: dict[str, Any] = {"gguf_types": types}
        if "onnx" in engines or named:
            decoders["decoder_precisions"] = _exact_first(named or tuple(own))
        return ExportOptions(
            vision_precisions=_exact_first(self.vision_precisions or _VISION),
            caps=Caps(self.max_pixels, self.max_tiles),
            **decoders,
            **self.options,
        )


@dataclass(frozen=True)
class Variant:
    """One export: a method with its stages, several budgets and precisions.

    Attributes:
        name: of its folder.
        options: of its export.
        plan: of it.
        seconds: it is expected to take.
    """

    name: str
    options: ExportOptions
    plan: ExportPlan
    seconds: float

    @property
    def made_by(self) -> list[tuple[str, str]]:
        """The options of `pocketvlm export` that tell it from other variants."""
        pairs = [("--pruner", self.plan.pruner.name)]
        pairs += [("--tower-stage", str(stage)) for stage in self.plan.tower_stages]
        size = self.options.image_size
        return pairs if size is None else [*pairs, ("--image-size", _edges(size))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for whoever measures; bytes are those of the published files, and
        ``gate_bytes`` of those that are kept beside them for the gate of the next export."""
        plan = self.plan
        layout, sizes = make_layout(setting(plan.spec, plan.layout)), plan.sizes()
        kept = {file: size for file, size in sizes.items() if file not in plan.extra}
        shared = {*plan.decoder.values(), *plan.embed.values(), *plan.gguf.values()}
        return {
            "name": self.name,
            "made_by": self.made_by,
            "tokens": plan.spec.vision.tokens,
            "budgets": list(plan.budgets),
            "engines": list(self.options.engines),
            "vision_precisions": list(self.options.vision_precisions),
            "decoder_precisions": {
                engine: list(names) for engine, names in self.options.by_engine.items()
            },
            "bytes": sum(kept.values()),
            "shared_bytes": sum(size for file, size in kept.items() if file in shared),
            "gate_bytes": sum(sizes[file] for file in shared & plan.extra),
            "device_bytes": plan.footprint().total,
            "seconds": self.seconds,
            "caps": {name: layout.caps[name] for name in _CAPS if name in layout.caps},
            "least_caps": {name: layout.least_caps.get(name, 1) for name in _CAPS},
        }


@dataclass(frozen=True)
class Grid:
    """What may be exported of one checkpoint.

    Attributes:
        model: as it was named.
        identity: of the checkpoint and of what exports it: files of another one are not its.
        tokens: of a picture or tile before pruning, in the checkpoint's own size.
        variants: the unpruned one first.
        left_out: what is not among them, and why, a sentence each.
        revision: of a Hub checkpoint.
    """

    model: str
    identity: str
    tokens: int
    variants: Sequence[Variant]
    left_out: Sequence[str]

    def named(self, name: str) -> Variant:
        """Return the variant of this name; raises `RequestError` where there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise RequestError(f"{self.model} has no variant {name!r}", advice="plan it again")

    def folder(self, variant: Variant) -> PurePosixPath:
        """Return where a variant lies below the folder that keeps them."""
        return PurePosixPath(self.identity[:_PART], variant.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for whoever measures."""
        return {
            "model": self.model,
            "tokens": self.tokens,
            "variants": [
                {**variant.to_dict(), "folder": str(self.folder(variant))}
                for variant in self.variants
            ],
            "left_out": list(self.left_out),
        }


def grid_of(model: str, wishes: Wishes) -> Grid:
    """Plan every variant that ``wishes`` allow.

    Raises:
        PocketVLMError: the checkpoint cannot be exported, or a method, stage, budget, precision or
            size of pictures that was wished for is refused. What is tried by itself and refused is
            left out, and so is what one of the smaller sizes cannot have.
    """
    base = wishes.base
    checkpoint = inspect_checkpoint(model, base.revision)
    whole = make_plan(checkpoint, replace(base, pruner=KEEPS_ALL))
    plans, left_out = [whole], []
    requests = [_requests(whole, base, wishes)]
    for size in dict.fromkeys(wishes.image_sizes):
        plans.append(_at_size(checkpoint, whole, base, wishes, size))
        requests.append(_requests(plans[-1], replace(base, image_size=size), wishes))
    small = plans[1:]
    for asked, options in chain(*requests):
        try:
            plans.append(make_plan(checkpoint, options))
        except RequestError as refusal:
            if asked or (wishes.budgets and refusal.setting == "budget"):
                raise
            left_out.append(f"{_title(options)}: {refusal.found}")
    variants = tuple(_variant(plan, first=plan is whole) for plan in plans)
    tokens = whole.spec.vision.tokens
    left_out += _never(wishes, tokens, checkpoint)
    least = min(wishes.budgets, default=0)
    left_out += [
        f"{_title(plan.options)} with pruning: it has {plan.spec.vision.tokens} tokens, the least "
        f"budget is {least}"
        for plan in small
        if plan.spec.vision.tokens <= least
    ]
    return Grid(model, identity_of(checkpoint, base), tokens, variants, left_out)


def _at_size(
    checkpoint: Checkpoint, whole: ExportPlan, base: ExportOptions, wishes: Wishes, size: Size
) -> ExportPlan:
    """The unpruned export for smaller pictures or tiles.

    Raises:
        RequestError: a size that is no smaller than the checkpoint's own, or that it cannot have.
    """
    options = replace(base, image_size=size, pruner=KEEPS_ALL)
    if not wishes.vision_precisions:
        options = replace(options, vision_precisions=base.vision_precisions[-1:])
    plan = make_plan(checkpoint, options)
    own = whole.spec.vision.image_size
    if own is not None and size[0] * size[1] >= own[0] * own[1]:
        raise RequestError(
            f"--image-sizes {_edges(size)} is no smaller than {_edges(own)}, the checkpoint's own",
            advice="name smaller ones: its own is tried anyway",
            setting="image_sizes",
        )
    return plan


def _requests(
    whole: ExportPlan, base: ExportOptions, wishes: Wishes
) -> Iterator[tuple[bool, ExportOptions]]:
    """Yield exports with whether the user asked for each by name.

    At a smaller size that is the first method alone, unless methods are named.
    """
    vision, smaller = whole.spec.vision, base.image_size is not None
    own = whole.spec.family.default_pruner(whole.spec)
    methods = wishes.methods or tuple(dict.fromkeys((own, *TUNED)))[: 1 if smaller else None]
    plans = tuple(tuple(map(Stage.parse, plan)) for plan in wishes.tower_stages)
    middle = Stage(
        max(1, round(_STAGE_AT * vision.depth)), max(1, round(_STAGE_KEEPS * vision.tokens))
    )
    for number, method in enumerate(methods):
        if method == KEEPS_ALL:
            continue  # it is always there
        # By itself a stage is tried with the first method alone.
        stages = plans or (((), (middle,)) if number == 0 and not smaller else ((),))
        for plan in stages:
            budgets = _budgets(wishes, vision.tokens, smaller=smaller)
            if plan:
                budgets = tuple(budget for budget in budgets if budget <= plan[-1].keep)
            if not budgets:
                continue  # nothing that was named would be dropped
            options = replace(base, pruner=method, tower_stages=plan, budgets=budgets)
            if not wishes.vision_precisions and (number or plan or smaller):
                options = replace(options, vision_precisions=base.vision_precisions[-1:])
            named = bool(wishes.tower_stages) if plan else bool(wishes.methods)
            if named or _ranks_well(method, whole):
                yield named and not smaller, options


def _ranks_well(method: str, whole: ExportPlan) -> bool:
    """Whether a method that is tried by itself suits the tower, as far as is known."""
    vision = whole.spec.vision
    return vision.cls_ranks or not vision.has_cls or "cls_row" not in find_pruner(method).reads


def _budgets(wishes: Wishes, tokens: int, *, smaller: bool = False) -> tuple[int, ...]:
    """The most first: narrower graphs of a nested method come from that of the first. Pictures of a
    ``smaller`` size have fewer tokens than some of those that are wished for."""
    budgets = wishes.budgets or tuple(max(1, round(tokens / part)) for part in _PARTS)
    if smaller:
        budgets = tuple(budget for budget in budgets if budget < tokens)
    return tuple(sorted(set(budgets) - {tokens}, reverse=True))


def _exact_first(names: Sequence[str]) -> tuple[str, ...]:
    """Precisions in the order of the registry, which is from exact to coarse; unknown ones last,
    where they are refused."""
    order = list(PRECISIONS)
    return tuple(
        sorted(dict.fromkeys(names), key=lambda name: order.index(name) if name in order else 99)
    )


def _variant(plan: ExportPlan, *, first: bool) -> Variant:
    key = hashlib.sha256(repr((plan.options, plan.budgets, plan.context)).encode()).hexdigest()
    stages = "".join(f"+tower-{str(stage).replace(':', '-')}" for stage in plan.tower_stages)
    size = f"+{_edges(plan.options.image_size)}" if plan.options.image_size else ""
    name = f"{plan.pruner.name}{stages}{size}-{key[:8]}"
    return Variant(name, plan.options, plan, expected_seconds(plan, decoder=first))


def _title(options: ExportOptions) -> str:
    stages = " ".join(map(str, options.tower_stages))
    stated = f"--tower-stage {stages}" if stages else ""
    if options.image_size:
        stated = f"{stated} --image-size {_edges(options.image_size)}".strip()
    return f"{options.pruner} with {stated}" if stated else f"{options.pruner}"


def _edges(size: Size) -> str:
    """A size as an option has it: one number for a square."""
    height, width = size
    return f"{height}" if height == width else f"{height}x{width}"


def _never(wishes: Wishes, tokens: int, checkpoint: Checkpoint) -> Iterator[str]:
    """What no grid has unless it is asked for, a sentence each."""
    if not wishes.methods:
        yield "other methods: name them with --method"
    if not wishes.tower_stages and not checkpoint.spec.vision.factor:
        yield "other stages of the tower: give --tower-stage"
    if not wishes.vision_precisions:
        both = ",".join(wishes.base.vision_precisions)
        yield f"towers in {both} with more than one method: give --vision-precision {both}"
    if not wishes.budgets:
        least = min(_budgets(wishes, tokens), default=tokens)
        yield f"budgets below {least} of {tokens} tokens: give --budget"
    graphs = wishes.base.decoder_precisions
    if not wishes.decoder_precisions and graphs in wishes.base.by_engine.values():
        yield (
            f"decoders other than {', '.join(graphs)}: give "
            "--decoder-precision; what the most exact of these loses is not measured"
        )
    if "llama.cpp" not in wishes.base.engines:
        yield "decoders of llama.cpp: give --decoder all"
    if not wishes.image_sizes and (sizes := smaller_sizes(checkpoint.spec)):
        listed = ",".join(map(_edges, sizes))
        yield f"smaller sizes of all pictures or tiles: give --image-sizes {listed}"
    yield "decoder stages and merged tokens: export them, and tune the folder"
