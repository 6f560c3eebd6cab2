"""The reference's side of layouts, from transformers' own code: in which order tokens stand, and
what around them.

Tokens are numbered on from tile to tile. What is written here shares nothing with
`pocketvlm.layouts`.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers.models.llava_next.modeling_llava_next import (
    LlavaNextModel,
    get_anyres_image_grid_shape,
)
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from pocketvlm.layouts import TileGrid
from pocketvlm_export.loading import Checkpoint, load_tokenizer
from pocketvlm_export.verification.reference import Floats, VisionReference

NEWLINE = -1  # in place of a token's number
Order = Callable[[Any, int, int, tuple[int, int]], list[int]]


def _one_tile(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    return list(range(patches))


def _frame_after_frame(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    """As `VideoLlavaModel.get_placeholder_mask` flattens frames and tokens into one axis."""
    return torch.arange(tiles * patches).reshape(tiles, patches).flatten(0, 1).tolist()


def _packed(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    """As transformers packs LLaVA-NeXT's features, done to the numbers of tokens instead."""
    numbers = torch.arange(tiles * patches, dtype=torch.float32).reshape(tiles, patches, 1)
    (found,), _ = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config),
        [numbers],
        [size],
        "default",
        image_newline=torch.tensor([float(NEWLINE)]),
    )
    return [int(number) for number in found[:, 0]]


def _stitched(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    """As FasterVLM's code: the whole picture, then the map of all parts, without unpadding or
    newlines."""
    rows, columns = get_anyres_image_grid_shape(
        size, config.image_grid_pinpoints, config.vision_config.image_size
    )
    side = config.vision_config.image_size // config.vision_config.patch_size
    whole, *parts = torch.arange(tiles * patches).reshape(tiles, patches)
    stitched = torch.stack(parts).view(rows, columns, side, side).permute(0, 2, 1, 3)
    return [*whole.tolist(), *stitched.flatten().tolist()]


def _tile_after_tile(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    return list(range(tiles * patches))


def stands_for_picture(checkpoint: Checkpoint, layout: str, grid: TileGrid) -> str:
    """Return the text that transformers' processor puts in place of a picture, an image token for
    each tile in it.

    Empty where that is nothing but image tokens.
    """
    if layout != "idefics3":
        return ""
    image_token = load_tokenizer(checkpoint.source.folder).convert_ids_to_tokens(
        checkpoint.spec.image_token_id
    )
    rows, columns = (grid.rows, grid.columns) if grid.tiles > 1 else (0, 0)
    return get_image_prompt_string(
        rows, columns, 1, "<fake_token_around_image>", image_token, "<global-img>"
    )


# By the name of the layout in the manifest: (configuration, tiles, patches of a tile, size of the
# picture) -> order.
ORDERS: Mapping[str, Order] = {
    "single": _one_tile,
    "anyres-hf": _packed,
    "anyres-fastervlm": _stitched,
    "idefics3": _tile_after_tile,
    "frames": _frame_after_frame,
}


def arrange_reference(
    checkpoint: Checkpoint, layout: str, tiles: VisionReference, size: tuple[int, int]
) -> Floats:
    """Return what the decoder reads of a picture: (slots, hidden).

    Args:
        checkpoint: whose tokens, and whose newline.
        layout: its name in the manifest.
        tiles: what is kept of each tile of the picture.
        size: (height, width) of the picture in pixels.
    """
    patches = checkpoint.spec.vision.tokens
    order = ORDERS[layout](checkpoint.spec.config, len(tiles.kept_indices), patches, size)
    rows = {
        tile * patches + int(patch): tiles.image_features[tile, row]
        for tile, kept in enumerate(tiles.kept_indices)
        for row, patch in enumerate(kept)
    }
    if NEWLINE in order:
        rows[NEWLINE] = checkpoint.family.load_constants(checkpoint.weights, checkpoint.spec)[
            "image_newline"
        ].numpy()
    return np.stack([rows[number] for number in order if number in rows])
