"""How a picture or clip becomes tiles, slots and features; a new layout is a module here and a name
in `_ALL`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pocketvlm.artifact import Artifact, Manifest
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts.anyres import AnyRes
from pocketvlm.layouts.anyres_shrunk import AnyResShrunk
from pocketvlm.layouts.anyres_unpadded import AnyResUnpadded
from pocketvlm.layouts.base import (
    MEDIA,
    Layout,
    LayoutConfig,
    Medium,
    budget_beside,
    caps_within,
    layout_among,
    slot_count,
    tokens_before,
    tokens_of_tile,
    tokens_of_tiles,
)
from pocketvlm.layouts.frames import Frames
from pocketvlm.layouts.grids import TileGrid, Tiles, TokenGrid
from pocketvlm.layouts.idefics3 import Idefics3
from pocketvlm.layouts.marked_resize import MarkedResize
from pocketvlm.layouts.single import Single
from pocketvlm.layouts.smart_resize import SmartResize
from pocketvlm.layouts.squared import Squared
from pocketvlm.layouts.thumbnail import TilesAndThumbnail
from pocketvlm.layouts.tiles import ClosestTiles

_ALL: tuple[type[Layout], ...] = (
    Single,
    AnyRes,
    AnyResUnpadded,
    AnyResShrunk,
    Squared,
    ClosestTiles,
    Idefics3,
    MarkedResize,
    TilesAndThumbnail,
    SmartResize,
    Frames,
)
LAYOUTS: dict[str, type[Layout]] = {layout.name: layout for layout in _ALL}

__all__ = [
    "LAYOUTS",
    "MEDIA",
    "Layout",
    "LayoutConfig",
    "Medium",
    "TileGrid",
    "Tiles",
    "TokenGrid",
    "budget_beside",
    "caps_within",
    "counting_layout",
    "counting_layouts",
    "layout_among",
    "layout_config",
    "make_layout",
    "media_read",
    "open_layout",
    "open_layouts",
    "slot_count",
    "tokens_before",
    "tokens_of_tile",
    "tokens_of_tiles",
]


def open_layout(artifact: Artifact) -> Layout:
    """The layout of an artifact, ready to cut, under the artifact's caps; raises `PocketVLMError`
    where its settings cannot be followed."""
    return _under_caps(
        artifact,
        make_layout(
            layout_config(artifact.manifest), artifact.read_json("preprocessor_config.json")
        ),
    )


def counting_layout(artifact: Artifact) -> Layout:
    """As `open_layout`, to count slots only: it reads no file."""
    return _under_caps(artifact, make_layout(layout_config(artifact.manifest)))


def media_read(manifest: Manifest) -> tuple[Medium, ...]:
    """The media that an artifact reads, the one that it is asked about unless another is named
    first."""
    # A layout that is unknown is refused where it is opened.
    layout = LAYOUTS.get(manifest.vision.layout["name"])
    own: Medium = "image" if layout is None else layout.medium
    return (own, *(medium for medium in MEDIA if medium in manifest.media))


def open_layouts(artifact: Artifact) -> dict[Medium, Layout]:
    """`open_layout` of each medium that an artifact reads."""
    return _by_medium(artifact, open_layout)


def counting_layouts(artifact: Artifact) -> dict[Medium, Layout]:
    """`counting_layout` of each medium that an artifact reads."""
    return _by_medium(artifact, counting_layout)


def _by_medium(artifact: Artifact, open_one: Callable[[Artifact], Layout]) -> dict[Medium, Layout]:
    own, *others = media_read(artifact.manifest)
    layouts = {own: open_one(artifact)}
    for medium in others:
        layout = open_one(artifact.reading(medium))
        if layout.medium != medium or medium in layouts:
            raise ArtifactError(
                f"{artifact.root} states the layout {layout.name} for {medium}s",
                expected=f"one that reads {medium}s, beside {own}s",
                advice="export it again",
            )
        layouts[medium] = layout
    return layouts


def _under_caps(artifact: Artifact, layout: Layout) -> Layout:
    if missing := set(layout.constants) - set(artifact.manifest.vision.constants):
        raise ArtifactError(
            f"{artifact.root} has no {', '.join(sorted(missing))}, which its layout "
            f"{layout.name} reads",
            advice="export it again",
        )
    return layout.capped(max_pixels=artifact.max_pixels, max_tiles=artifact.max_tiles)


def layout_config(manifest: Manifest) -> LayoutConfig:
    """The part of an artifact's manifest that its layout reads."""
    vision = manifest.vision
    return LayoutConfig(
        vision.image_size,
        manifest.pruning.tokens_before,
        manifest.decoder.image_token_id,
        dict(vision.layout),
    )


def make_layout(config: LayoutConfig, processor_config: Mapping[str, Any] | None = None) -> Layout:
    """See `Layout.make`; raises `PocketVLMError` for a layout that this runtime does not have,
    too."""
    name = config.options.get("name")
    if name not in LAYOUTS:
        raise ArtifactError(
            f"picture layout {name!r} is unknown to this runtime, which has {', '.join(LAYOUTS)}",
            advice="update pocketvlm",
        )
    return LAYOUTS[name].make(config, processor_config)
