"""Knows which layout of its family an export uses, and how many visual tokens that comes to."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from pocketvlm.errors import RequestError
from pocketvlm.layouts import Layout, LayoutConfig, make_layout, slot_count
from pocketvlm_export.caps import Caps
from pocketvlm_export.families import LayoutSpec, VLMSpec


def pick_layout(spec: VLMSpec, name: str | None, *, prunes: bool) -> LayoutSpec:
    """Return the layout called ``name``, or the default: without pruning that which is
    transformers' own.

    Raises:
        PocketVLMError: the family has no such layout, tokens cannot be pruned under it, or nothing
            is pruned and it would give another result.
    """
    if name is None:
        return next(
            layout
            for layout in spec.layouts.values()
            if (prunes and not layout.with_cls) or layout.exact
        )
    if name not in spec.layouts:
        raise RequestError(
            f"layout {name!r} is unknown to {spec.family.model_type} checkpoints",
            advice=f"choose from {', '.join(spec.layouts)}",
            setting="layout",
        )
    layout = spec.layouts[name]
    if prunes and layout.with_cls:
        raise RequestError(
            f"layout {name} gives [CLS] of each tile to the decoder, which no method ranks",
            advice="leave --layout out, or give --pruner none",
            setting="layout",
        )
    if not (prunes or layout.exact):
        exact = next(other for other, layout in spec.layouts.items() if layout.exact)
        raise RequestError(
            f"layout {name} is for pruning, without which an export gives what transformers gives",
            advice=f"leave --layout out or give --layout {exact}",
            setting="layout",
        )
    return layout


def setting(spec: VLMSpec, layout: LayoutSpec) -> LayoutConfig:
    """Return what the runtime's layout is made for."""
    return spec.layout_config(layout.stated)


def under_used_caps(spec: VLMSpec, layout: LayoutSpec, asked: Caps) -> VLMSpec:
    """Return ``spec`` without a cap of its family's that this layout does not have; raises
    `RequestError` where it is ``asked`` for."""
    runtime: Layout = make_layout(setting(spec, layout))
    unused = {"max_pixels", "max_tiles"} & spec.caps.given.keys() - runtime.caps.keys()
    for name in sorted(unused & asked.given.keys() - asked.suggested):
        raise RequestError(
            f"--{name.replace('_', '-')} is nothing that the layout {runtime.name} has",
            advice="leave it out, or --layout",
            setting=name,
        )
    return replace(spec, caps=spec.caps.without(unused))


def constant_files(layout: LayoutSpec) -> dict[str, str]:
    """Return the files of what the layout reads beside features and no picture changes, by name."""
    return {name: f"constants/{name}.bin" for name in layout.constants}


def totals(spec: VLMSpec, layout: LayoutSpec, budget: int) -> dict[str, int]:
    """Return how many visual tokens a picture takes at most, by the grid of tiles that it is cut
    into."""
    runtime: Layout = make_layout(setting(spec, layout))
    return {
        str(grid): slot_count(runtime, runtime.expand(grid, budget)) for grid in runtime.grids()
    }


def most_tiles(spec: VLMSpec, layout: LayoutSpec) -> int:
    """Return the tiles that a picture is cut into at most."""
    return make_layout(setting(spec, layout)).grids()[-1].tiles


def budgets_within(spec: VLMSpec, layout: LayoutSpec, most: Sequence[int]) -> tuple[int, ...]:
    """Return the largest budgets of a tile with which no picture takes more visual tokens than each
    of ``most``.

    Raises:
        PocketVLMError: a single token of each tile is more than that.
    """

    def largest(budget: int) -> int:
        return max(totals(spec, layout, budget).values())

    for total in most:
        if total < largest(1):
            raise RequestError(
                f"total budget {total} is less than a picture takes with one token of each tile",
                advice=f"give at least {largest(1)}",
                setting="total_budget",
            )
    return tuple(
        bisect_right(range(1, spec.vision.tokens + 1), total, key=largest) for total in most
    )


def longest(spec: VLMSpec, layout: LayoutSpec, budget: int) -> int:
    """Return how many tokens of the prompt a picture takes at most, those between its tiles
    included."""
    runtime = make_layout(setting(spec, layout))
    return max(len(runtime.expand(grid, budget)) for grid in runtime.grids())
