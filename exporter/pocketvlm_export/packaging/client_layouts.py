"""Knows what using.json states of a layout: how a picture becomes tiles, and which ids and rows of
features are in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pocketvlm.layouts import Layout, tokens_of_tile


def layout_facts(layout: Layout) -> dict[str, Any]:
    """How a picture is cut and put together: the layout by its name, with all that it follows."""
    several = layout.several
    own = {
        "name": layout.name,
        "options": {name: each for name, each in layout.config.options.items() if name != "name"},
        "tile_size": _listed(layout.config.image_size),
        "patches": layout.config.patches,
        "most_tiles": layout.grids()[-1].tiles,
        "unit": layout.unit,
        "one_grid": layout.one_grid,
        "constants": list(layout.constants),
        "figures": dict(layout.figures),
    }
    if several is layout:
        return own
    return {**own, "several": {**layout_facts(several), "picture": picture_steps(several)}}


def picture_steps(layout: Layout) -> dict[str, Any]:
    """The steps of a tile. Its size is that of every tile, or where resolution is ``dynamic`` that
    of the largest picture."""
    steps, size = layout.steps, layout.config.image_size
    return {
        "size": list(size or layout.largest_size()),
        "dynamic": size is None,
        "pad_colour": _listed(steps.pad_colour),
        "shortest_edge": steps.shortest_edge,
        "resize_to": _listed(steps.resize_to),
        "resample": steps.resample.name.lower(),
        "crop_to": _listed(steps.crop_to),
        "scale": 1.0 if steps.rescale_factor is None else steps.rescale_factor,
        "mean": list(steps.mean or (0.0, 0.0, 0.0)),
        "std": list(steps.std or (1.0, 1.0, 1.0)),
    }


def ids_around(layout: Layout) -> Mapping[str, list[int]] | None:
    """The ids before a picture's slots and after them. None if ids come between the slots of two
    tiles, or differ with the number of tiles."""
    edges = []
    for grid in layout.grids():
        ids = layout.expand(grid, 1)
        (slots,) = np.nonzero(ids == layout.config.image_token_id)
        if len(slots) != slots[-1] + 1 - slots[0]:
            return None
        edges.append({"before": ids[: slots[0]].tolist(), "after": ids[slots[-1] + 1 :].tolist()})
    return edges[0] if all(ids == edges[0] for ids in edges) else None


def is_in_order(layout: Layout) -> bool:
    """Whether the slots are filled with the rows of one tile after those of another, and nothing
    else."""
    if layout.constants:
        return False
    for grid in layout.grids():
        kept = np.tile(np.arange(min(2, tokens_of_tile(layout, grid))), (grid.tiles, 1))
        rows = np.arange(kept.size, dtype=np.float32).reshape(*kept.shape, 1)
        if not np.array_equal(layout.arrange(grid, rows, kept, {}), rows.reshape(-1, 1)):
            return False
    return True


def token_edge(layout: Layout) -> int:
    """Edge in pixels of the square that a token is of."""
    return layout.largest_size()[0] // layout.token_grid(layout.grids()[-1]).rows


def token_grid(layout: Layout) -> list[int] | None:
    """Rows and columns of the tokens of a picture or tile, which `kept_indices` count in; None
    where they follow from the picture."""
    if layout.config.image_size is None:
        return None
    tokens = layout.token_grid(layout.grids()[-1])
    return [tokens.rows, tokens.columns]


def _listed(values: tuple[int, ...] | None) -> list[int] | None:
    return None if values is None else list(values)
