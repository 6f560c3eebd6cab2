"""Knows how transformers' models and processors arrange pictures, which only their methods say."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    PretrainedConfig,
)

from pocketvlm_export.upstream.loading import model_class

_OLDER_SETTINGS = ("min_pixels", "max_pixels", "use_square_size")


def pack_image_features(
    config: PretrainedConfig, tiles: torch.Tensor, size: tuple[int, int], newline: torch.Tensor
) -> torch.Tensor:
    """Return what LLaVA-NeXT reads of one picture: (tiles, N, C) -> (slots, C).

    ``size`` is (height, width) of the picture in pixels, ``newline`` (C,) ends each row. The method
    belongs to a model with all its weights, of which it reads the configuration alone: an object
    with nothing else takes the model's place.
    """
    model = model_class("llava_next", "LlavaNextModel")
    (features,), _ = model.pack_image_features(
        SimpleNamespace(config=config), [tiles], [size], "default", image_newline=newline
    )
    packed: torch.Tensor = features
    return packed


def pack_onevision_features(
    config: PretrainedConfig,
    tiles: torch.Tensor,
    size: tuple[int, int],
    newline: torch.Tensor,
    aspect_ratio: str,
) -> torch.Tensor:
    """As `pack_image_features`, of LLaVA-OneVision: its method has a limit in ``aspect_ratio``, as
    in ``anyres_max_9``, and takes a single tile for one of several pictures."""
    model = model_class("llava_onevision", "LlavaOnevisionModel")
    (features,), _ = model.pack_image_features(
        SimpleNamespace(config=config), [tiles], [size], newline, aspect_ratio
    )
    packed: torch.Tensor = features
    return packed


def picture_settings(kind: Any) -> frozenset[str]:
    """Return the names of the settings that an image processor of the class ``kind`` is made of:
    those that it declares, and older ones that some replace.

    ``valid_kwargs`` is meant for whoever writes such a class.
    """
    return frozenset({*kind.valid_kwargs.__annotations__, *_OLDER_SETTINGS})


def picture_masks(
    config: PretrainedConfig, inputs_embeds: torch.Tensor, is_visual: torch.Tensor
) -> Mapping[str, torch.Tensor]:
    """Return the attention masks of a whole prompt as Gemma 3 makes them, one for each kind of
    layer, (1, 1, n, n) each. Pictures are what neighbours each other in ``is_visual`` (n,).

    Helpers of transformers' model, which makes them of ``token_type_ids`` before it calls its
    decoder.
    """
    numbers = model_class("gemma3", "get_block_sequence_ids_for_mask")
    masks: Mapping[str, torch.Tensor] = model_class("gemma3", "create_masks_for_vision_model")(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        block_sequence_ids=numbers(is_visual.long()[None]),
    )
    return masks


def tile_grid(
    size: tuple[int, int], pinpoints: Sequence[Sequence[int]], edge: int
) -> tuple[int, int]:
    """Return the rows and columns of tiles, ``edge`` pixels each, that LLaVA-NeXT cuts a picture
    of ``size`` (height, width) into; a helper of transformers' model."""
    shape = model_class("llava_next", "get_anyres_image_grid_shape")
    rows, columns = shape(size, pinpoints, edge)
    return int(rows), int(columns)


def image_prompt(
    rows: int, columns: int, slots: int, around: str, image_token: str, whole: str
) -> str:
    """Return the text that SmolVLM's processor writes in place of a picture of so many tiles.

    ``around`` comes before and behind each tile, ``whole`` marks the picture in one piece. It is a
    function of the processor's module; the processor itself also prepares the pixels.
    """
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    text: str = get_image_prompt_string(rows, columns, slots, around, image_token, whole)
    return text


def rope_positions(
    model: Any,
    config: PretrainedConfig,
    ids: npt.NDArray[np.int64],
    is_image: npt.NDArray[np.bool_],
    grids: Sequence[tuple[int, int, int]],
) -> npt.NDArray[np.int64]:
    """Return the positions of a prompt about pictures as Qwen's models number them: int64 (3, n).

    ``grids`` are the frames, rows and columns of each picture's patches. The method belongs to the
    class ``model`` with all its weights, of which it reads the configuration alone.
    """
    stand_in = SimpleNamespace(config=config)
    stand_in.get_vision_position_ids = lambda *arguments, **options: model.get_vision_position_ids(
        stand_in, *arguments, **options
    )
    positions, _ = model.get_rope_index(
        stand_in,
        torch.from_numpy(ids)[None],
        mm_token_type_ids=torch.from_numpy(is_image.astype(np.int64))[None],
        image_grid_thw=torch.tensor(list(grids)),
    )
    numbers: npt.NDArray[np.int64] = positions[:, 0].numpy()
    return numbers


def stretched_positions(embeddings: Any, size: tuple[int, int]) -> torch.Tensor:
    """Return the positions that a tower with a table of them adds to [CLS], if it has one, and to
    the patches of a picture of ``size`` (height, width) in pixels. They are (1, tokens, C), as the
    class interpolates its table; the table itself if that fits.

    ``interpolate_pos_encoding`` is a method of a part of the model, which no documentation lists.
    CLIP's, SigLIP's, InternViT's and DINOv2's are meant; the table is an embedding or a parameter.
    """
    parameter = getattr(embeddings, "position_embeddings", None)
    table = embeddings.position_embedding.weight if parameter is None else parameter[0]
    before = len(table) - math.isqrt(len(table)) ** 2  # [CLS], beside a square of patches
    stated = embeddings.patch_size
    edges = stated if isinstance(stated, (list, tuple)) else (stated, stated)
    tokens = before + (size[0] // edges[0]) * (size[1] // edges[1])
    with torch.no_grad():
        stand_in = table.new_empty(1, tokens, table.shape[-1])
        positions: torch.Tensor = embeddings.interpolate_pos_encoding(stand_in, *size)
    return positions.detach()


def window_order(grid: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Return the order in which Qwen2.5-VL's tower reads the tokens of a picture, window by window:
    (1, 3) of frames, rows and columns of patches -> int64 (N,)."""
    from transformers.vision_utils import get_vision_window_index

    order, _ = get_vision_window_index(
        grid,
        spatial_merge_size=config.spatial_merge_size,
        window_size=config.window_size,
        patch_size=config.patch_size,
    )
    indices: torch.Tensor = order
    return indices
