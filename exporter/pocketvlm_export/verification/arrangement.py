"""Knows what the decoder reads of a picture and around it, by what each family states of
transformers' own code."""

from collections.abc import Mapping, Sequence

import numpy as np

from pocketvlm.artifact import Artifact
from pocketvlm.layouts import TileGrid
from pocketvlm_export.checkpoint import load_tokenizer
from pocketvlm_export.families.spec import NEWLINE, LayoutSpec, VLMSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.verification.decoder_reference import PictureReference
from pocketvlm_export.verification.vision_reference import Floats, VisionReference


def layout_of(spec: VLMSpec, artifact: Artifact) -> LayoutSpec | None:
    """Return the layout of a checkpoint that an artifact has, None where it has none of them."""
    stated = artifact.manifest.vision.layout
    return next((each for each in spec.layouts.values() if each.stated == stated), None)


def text_of_picture(checkpoint: Checkpoint, layout: LayoutSpec, grid: TileGrid) -> str:
    """Return the text that transformers' processor puts in place of a picture, an image token for
    each tile in it; empty where that is nothing but image tokens."""
    if layout.text is None:
        return ""
    tokenizer = load_tokenizer(checkpoint.source.folder)
    return layout.text(str(tokenizer.convert_ids_to_tokens(checkpoint.spec.image_token_id)), grid)


def picture_reference(
    checkpoint: Checkpoint,
    layout: LayoutSpec,
    tiles: Sequence[VisionReference],
    grid: TileGrid,
    size: tuple[int, int],
) -> PictureReference:
    """Return what a prompt holds of a picture.

    Args:
        checkpoint: see `arrange_reference`.
        layout: of the artifact.
        tiles: what is kept of the picture's tiles, those of each size apart.
        grid: how it was cut.
        size: (height, width) of it in pixels.
    """
    tokens = grid.tokens if grid.tiles == 1 else None
    features = [arrange_reference(checkpoint, layout, each, size) for each in tiles]
    extras = [arrange_extras(checkpoint, layout, each, size) for each in tiles]
    counts = [each.kept_indices.shape[1] for each in tiles for _ in each.kept_indices]
    return PictureReference(
        np.concatenate(features),
        text_of_picture(checkpoint, layout, grid),
        None if tokens is None else (tokens.rows, tokens.columns),
        None if tokens is None else tiles[0].kept_indices[0],
        {name: np.concatenate([each[name] for each in extras]) for name in extras[0]},
        counts if len(tiles) > 1 else (),
    )


def arrange_reference(
    checkpoint: Checkpoint, layout: LayoutSpec, tiles: VisionReference, size: tuple[int, int]
) -> Floats:
    """Return what the decoder reads of a picture: (slots, hidden).

    Args:
        checkpoint: whose tokens, and whose newline.
        layout: of the artifact.
        tiles: what is kept of each tile of the picture.
        size: (height, width) of the picture in pixels.
    """
    constants: Mapping[str, Floats] = {}
    if layout.constants:
        constants = {
            name: constant.numpy()
            for name, constant in checkpoint.spec.family.load_constants(
                checkpoint.weights, checkpoint.spec
            ).items()
        }
    return _arranged(checkpoint.spec, layout, tiles, size, tiles.image_features, constants)


def arrange_extras(
    checkpoint: Checkpoint, layout: LayoutSpec, tiles: VisionReference, size: tuple[int, int]
) -> dict[str, Floats]:
    """Return the further features that the decoder reads of a picture, by name: (slots, hidden)
    each, zeros for what comes between its tokens. Arguments as of `arrange_reference`."""
    spec = checkpoint.spec
    nothing = dict.fromkeys(layout.constants, np.zeros(spec.decoder.hidden, dtype=np.float32))
    return {
        name: _arranged(spec, layout, tiles, size, tiles.extras[name], nothing)
        for name in spec.decoder.extras
    }


def _arranged(
    spec: VLMSpec,
    layout: LayoutSpec,
    tiles: VisionReference,
    size: tuple[int, int],
    features: Floats,
    constants: Mapping[str, Floats],
) -> Floats:
    """Features of the kept tokens of each tile, (tiles, k, hidden), in the decoder's order."""
    tokens = len(tiles.rankings[0].scores)
    order = layout.order(spec.config, len(tiles.kept_indices), tokens, size)
    rows = {
        tile * tokens + int(patch): features[tile, row]
        for tile, kept in enumerate(tiles.kept_indices)
        for row, patch in enumerate(kept)
    }
    if NEWLINE in order:
        rows[NEWLINE] = constants[layout.constants[0]]
    return np.stack([rows[number] for number in order if number in rows])
