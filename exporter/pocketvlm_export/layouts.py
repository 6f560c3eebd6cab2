"""Knows which layout of its family an export uses, and how many visual tokens that comes to."""

from pocketvlm import PocketVLMError
from pocketvlm.layouts import Layout, Setting, make_layout, slot_count
from pocketvlm_export.families import LayoutSpec, VLMSpec


def pick_layout(spec: VLMSpec, name: str | None, *, prunes: bool) -> LayoutSpec:
    """Return the layout called ``name``, or the default: without pruning that which is transformers' own.

    Raises:
        PocketVLMError: the family has no such layout, or nothing is pruned and it would give another result.
    """
    if name is None:
        return next(layout for layout in spec.layouts.values() if prunes or layout.exact)
    if name not in spec.layouts:
        raise PocketVLMError(
            f"layout {name!r} is unknown to {spec.family.model_type} checkpoints: choose from {', '.join(spec.layouts)}"
        )
    layout = spec.layouts[name]
    if not (prunes or layout.exact):
        exact = next(other for other, found in spec.layouts.items() if found.exact)
        raise PocketVLMError(
            f"layout {name} is for pruning, without which an export gives what transformers gives: "
            f"leave --layout out or say {exact}"
        )
    return layout


def setting(spec: VLMSpec, layout: LayoutSpec) -> Setting:
    """Return what the runtime's layout is made for."""
    return Setting(spec.vision.image_size, spec.vision.tokens, spec.image_token_id, layout.stated)


def totals(spec: VLMSpec, layout: LayoutSpec, budget: int) -> dict[str, int]:
    """Return how many visual tokens a picture takes at most, by the grid of tiles that it is cut into."""
    made: Layout = make_layout(setting(spec, layout))
    return {str(grid): slot_count(made, made.expand(grid, budget)) for grid in made.grids()}
