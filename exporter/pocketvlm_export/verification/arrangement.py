"""The reference's side of layouts, from transformers' own code: the order of a picture's tokens,
and the text around them.

Tokens are numbered on from tile to tile. What is written here shares nothing with
`pocketvlm.layouts`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pocketvlm.layouts import TileGrid
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import load_tokenizer
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.verification.reference import Floats, VisionReference

NEWLINE = -1  # in place of a token's number


@dataclass(frozen=True)
class Arrangement:
    """How transformers arranges the tokens of one picture.

    Attributes:
        order: (configuration, tiles, patches per tile, (height, width) of the picture) -> numbers
            of tokens in the order that the decoder reads them, `NEWLINE` between.
        text: (image token, grid) -> what the processor writes in place of the picture, an image
            token for each tile in it; None where that is nothing but image tokens.
    """

    order: Callable[[Any, int, int, tuple[int, int]], list[int]]
    text: Callable[[str, TileGrid], str] | None = None


def _one_tile(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    return list(range(patches))


def _frame_after_frame(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    """As `VideoLlavaModel.get_placeholder_mask` flattens frames and tokens into one axis."""
    return torch.arange(tiles * patches).reshape(tiles, patches).flatten(0, 1).tolist()


def _packed(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    """As transformers packs LLaVA-NeXT's features, done to the numbers of tokens instead."""
    numbers = torch.arange(tiles * patches, dtype=torch.float32).reshape(tiles, patches, 1)
    packed = upstream.pack_image_features(config, numbers, size, torch.tensor([float(NEWLINE)]))
    return [int(number) for number in packed[:, 0]]


def _stitched(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    """As FasterVLM's code: the whole picture, then the map of all parts, without unpadding or
    newlines."""
    vision = config.vision_config
    rows, columns = upstream.tile_grid(size, config.image_grid_pinpoints, vision.image_size)
    side = vision.image_size // vision.patch_size
    whole, *parts = torch.arange(tiles * patches).reshape(tiles, patches)
    stitched = torch.stack(parts).view(rows, columns, side, side).permute(0, 2, 1, 3)
    return [*whole.tolist(), *stitched.flatten().tolist()]


def _tile_after_tile(config: Any, tiles: int, patches: int, size: tuple[int, int]) -> list[int]:
    return list(range(tiles * patches))


def _marked_tiles(image_token: str, grid: TileGrid) -> str:
    """As SmolVLM's processor names each tile."""
    rows, columns = (grid.rows, grid.columns) if grid.tiles > 1 else (0, 0)
    return upstream.image_prompt(
        rows, columns, 1, "<fake_token_around_image>", image_token, "<global-img>"
    )


# By the name of the layout in the manifest.
ARRANGEMENTS: Mapping[str, Arrangement] = {
    "single": Arrangement(_one_tile),
    "anyres-hf": Arrangement(_packed),
    "anyres-fastervlm": Arrangement(_stitched),
    "idefics3": Arrangement(_tile_after_tile, _marked_tiles),
    "frames": Arrangement(_frame_after_frame),
}


def text_of_picture(checkpoint: Checkpoint, layout: str, grid: TileGrid) -> str:
    """Return the text that transformers' processor puts in place of a picture, an image token for
    each tile in it; empty where that is nothing but image tokens."""
    text = ARRANGEMENTS[layout].text
    if text is None:
        return ""
    tokenizer = load_tokenizer(checkpoint.source.folder)
    return text(str(tokenizer.convert_ids_to_tokens(checkpoint.spec.image_token_id)), grid)


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
    spec, patches = checkpoint.spec, checkpoint.spec.vision.tokens
    order = ARRANGEMENTS[layout].order(spec.config, len(tiles.kept_indices), patches, size)
    rows = {
        tile * patches + int(patch): tiles.image_features[tile, row]
        for tile, kept in enumerate(tiles.kept_indices)
        for row, patch in enumerate(kept)
    }
    if NEWLINE in order:
        constants = spec.family.load_constants(checkpoint.weights, spec)
        rows[NEWLINE] = constants["image_newline"].numpy()
    return np.stack([rows[number] for number in order if number in rows])
