"""Knows how to draw which patches of a picture the model keeps, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.artifact import Artifact, pick_graph
from pocketvlm.errors import RequestError
from pocketvlm.layouts import TileGrid, TokenGrid, layout_among, open_layout
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.ort.settings import EngineSettings
from pocketvlm.text.prompts import Prompter
from pocketvlm.vision.batches import encode_tiles
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.viewer import PictureInput, open_medium

_MIN_EDGE = 512  # pixels of the drawing's longer edge, at least
_DIM = 0.38  # brightness of dropped patches, which also lose their colour
_WEAKEST = (
    0.55  # how far the kept patch of lowest score comes out of the dim; the best comes out wholly
)
_GAP = 32  # pixels between the whole picture and its parts
_OUTLINE = np.array([255, 196, 0], dtype=np.float32)


def open_encoders(
    artifact: Artifact, budgets: Iterable[int], precision: str | None = None
) -> dict[int, VisionEncoder]:
    """The vision graphs that serve ``budgets``, by their own; precision None is the artifact's
    default."""
    graphs = {pick_graph(artifact.manifest, budget) for budget in budgets}
    once = EngineSettings(prepack=False)
    return {
        k: VisionEncoder.open(artifact, budget=k, precision=precision, settings=once)
        for k in graphs
    }


def draw_budgets(
    artifact: Artifact,
    picture: Picture | Video,
    budgets: Sequence[int],
    encoders: Mapping[int, VisionEncoder] | None = None,
    pictures: int = 1,
    question: str | None = None,
) -> dict[int, tuple[Image.Image, list[int]]]:
    """For each budget the drawing of `draw_kept`, and the patches kept in raster order.

    >>> from pocketvlm import Artifact
    >>> from pocketvlm.vision.overlay import draw_budgets
    >>> drawn = draw_budgets(Artifact.open("demo-vlm"), "examples/scene-2.png", [36, 14])
    >>> drawing, kept = drawn[14]
    >>> len(kept), set(kept) <= set(drawn[36][1]), drawing.width == drawing.height
    (14, True, True)

    Args:
        artifact: an opened artifact.
        picture: see `open_picture`; where the model reads clips, `open_video`.
        budgets: visual tokens; each graph that serves some of them runs once.
        encoders: see `open_encoders`, where several pictures are drawn; None opens those of the
            default precision.
        pictures: of the prompt that this one belongs to, see `Layout.several`.
        question: what is asked about it, for a method that reads the prompt.

    Raises:
        PocketVLMError: a picture or budget that is refused, or patches that are not a grid.
    """
    manifest, layout = artifact.manifest, layout_among(open_layout(artifact), pictures)
    upright = open_medium(layout, picture)
    views, tiles = layout.views(upright), layout.cut(upright)
    encoders = encoders or open_encoders(artifact, budgets)
    asked = None if question is None else Prompter.from_artifact(artifact).question_of(question)
    features = {
        k: encode_tiles(encoders[k], layout, tiles, asked)
        for k in {pick_graph(manifest, budget) for budget in budgets}
    }
    drawn = {}
    for budget in budgets:
        encoded = PictureInput(layout, tiles, budget)
        served = features[pick_graph(manifest, budget)]
        encoded.features = tuple(each.narrow(budget) for each in served)
        kept = [
            (indices, scores, layout.token_grid(batch))
            for batch, each in zip(tiles.grid.batches, encoded.features, strict=True)
            for indices, scores in zip(each.kept_indices, each.kept_scores, strict=True)
        ]
        drawings = [draw_kept(view, *row) for view, row in zip(views, kept, strict=True)]
        drawn[budget] = (join_tiles(drawings, tiles.grid), encoded.kept_indices)
    return drawn


def join_tiles(drawings: Sequence[Image.Image], grid: TileGrid) -> Image.Image:
    """Drawings of the tiles of one picture: its parts, all of a size, side by side as they lie in
    it, the whole first.

    Args:
        drawings: in the order of the batches.
        grid: how the picture was cut.
    """
    if len(drawings) == 1:
        return drawings[0]
    parts = list(drawings)
    whole = [] if grid.whole is None else [parts.pop(0 if grid.whole == "first" else -1)]
    width, height = parts[0].size
    left = sum(drawing.width + _GAP for drawing in whole)
    tall = max(height * grid.rows, *(drawing.height for drawing in whole), 0)
    sheet = Image.new("RGB", (left + width * grid.columns, tall), "white")
    for drawing in whole:
        sheet.paste(drawing, (0, 0))
    for number, drawing in enumerate(parts):
        sheet.paste(
            drawing, (left + number % grid.columns * width, number // grid.columns * height)
        )
    return sheet


def draw_kept(
    picture: npt.NDArray[np.uint8],
    kept_indices: npt.NDArray[np.int64],
    kept_scores: npt.NDArray[np.float32],
    tokens: TokenGrid,
) -> Image.Image:
    """The picture with kept patches in colour, brighter for a higher score and outlined, the others
    dim and grey.

    Args:
        picture: uint8 (height, width, 3), resized and cropped as the model sees it.
        kept_indices: int64 (k,), patch numbers in raster order.
        kept_scores: float32 (k,), in the same order; only their order matters.
        tokens: rows and columns of the patches of the whole picture.

    Raises:
        PocketVLMError: they are not squares of the picture.
    """
    height, width = picture.shape[:2]
    rows, columns = tokens.rows, tokens.columns
    if rows * width != columns * height:
        raise RequestError(
            f"this artifact has no overlay, as its {tokens.tokens} patches are not a grid over "
            f"{width}x{height} pixels",
        )
    scale = math.ceil(_MIN_EDGE / max(height, width))
    size = (width * scale, height * scale)
    colour = np.asarray(
        Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), dtype=np.float32
    )
    grey = colour.mean(axis=2, keepdims=True) * _DIM  # (height, width, 1)

    weights = np.zeros(tokens.tokens, dtype=np.float32)
    rank = np.argsort(
        np.argsort(kept_scores, kind="stable"), kind="stable"
    )  # 0 is the lowest score
    weights[kept_indices] = _WEAKEST + (1 - _WEAKEST) * (rank + 1) / len(rank)
    weight = _enlarge(weights.reshape(rows, columns), size)[:, :, None]
    drawing = grey + (colour - grey) * weight
    drawing[_borders(weight[:, :, 0] > 0, thickness=max(2, max(size) // 256))] = _OUTLINE
    return Image.fromarray(drawing.clip(0, 255).astype(np.uint8))


def _enlarge(grid: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(rows, columns) to (height, width), each cell a flat rectangle."""
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.NEAREST))


def _borders(kept: npt.NDArray[np.bool_], thickness: int) -> npt.NDArray[np.bool_]:
    """Kept pixels within ``thickness`` of a dropped one."""
    inner = kept.copy()
    for axis in (0, 1):
        for step in range(1, thickness + 1):
            for shift in (step, -step):
                moved = np.roll(kept, shift, axis=axis)
                edge = slice(0, shift) if shift > 0 else slice(shift, None)
                moved[(edge, slice(None)) if axis == 0 else (slice(None), edge)] = (
                    True  # the frame is not a border
                )
                inner &= moved
    return kept & ~inner
