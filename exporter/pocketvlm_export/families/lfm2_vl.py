"""LFM2-VL (``lfm2_vl``): a SigLIP2 tower that reads pictures of any size, squares of patches made
one token, a decoder whose layers are mostly short convolutions.

What to know when they are exported:

- A picture is one tile that keeps its proportions, of 64 to 256 tokens of 32 x 32 pixels. One of
  more than twice that is cut into tiles of 512 x 512 pixels and a thumbnail, where the processor
  says so. An export allows `DEFAULT_TILES` unless ``--max-tiles`` says otherwise; ``--layout
  whole`` makes large pictures smaller instead, as by ``do_image_splitting: false``.
- The tower has no [CLS] token, so methods that rank patches by what it attends to are refused.
  ``scope``, the default, weights them by received attention. That takes the attention map of one
  layer, by blocks of queries: half of what attention costs in that layer, once more.
- What a convolution has read cannot be cut. A conversation continues from its last turn, and an
  answer is made again from its question. If a prompt differs earlier, only the pictures' features
  are reused.
- Pictures only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError, RequestError
from pocketvlm.layouts import TileGrid
from pocketvlm.layouts.marked_resize import MarkedResize
from pocketvlm.layouts.smart_resize import smallest_area
from pocketvlm.layouts.thumbnail import Cutting, TilesAndThumbnail, largest_tile
from pocketvlm_export import upstream
from pocketvlm_export.caps import Caps
from pocketvlm_export.checkpoint import Settings, image_processor, load_tokenizer, text_ids
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.any_size import check_edge, of_pixels, of_size, pixels_allowed
from pocketvlm_export.families.assembly import with_changes
from pocketvlm_export.families.base import MOST_EDGE, Family
from pocketvlm_export.families.lfm2_vl_pictures import patches_of, picture_of
from pocketvlm_export.families.spec import LayoutSpec, ReferenceFeatures, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_TOWER = "siglip2_vision_model"
_TOKENS = 256  # of the largest picture; how many they are is read with the processor
# The tokens around a picture by what the tokenizer calls them, else these.
_MARKS = {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
_MARKED = "use_image_special_tokens"  # of processor_config.json
_PART, _THUMBNAIL = "<|img_row_{}_col_{}|>", "image_thumbnail_token"


class Lfm2VL(Family):
    """LFM2-VL."""

    model_type: ClassVar[str] = "lfm2_vl"
    processor: ClassVar[str] = "Lfm2VlProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "lfm2_vl", "Lfm2VlMultiModalProjector"
    )
    caps: ClassVar[frozenset[str]] = frozenset({"max_pixels", "max_tiles", "fixed_size"})

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        whole = Settings.of(config)
        settings = whole.section("vision_config")
        if settings.text("model_type") != _TOWER:
            raise CheckpointError(
                f"the vision tower is a {settings.text('model_type')}, which is not supported",
                expected=f"a {_TOWER}, as published checkpoints have",
            )
        if whole.stated("vision_feature_layer") not in (None, -1):
            raise CheckpointError(
                f"vision_feature_layer is {config.vision_feature_layer}",
                expected="-1, the only one that transformers reads",
            )
        depth, patches = (settings.integer(key) for key in ("num_hidden_layers", "num_patches"))
        merge, side = whole.integer("downsample_factor", most=64), round(patches**0.5)
        if side**2 != patches:
            raise CheckpointError(
                f"vision_config.num_patches is {patches}", expected="a square number of positions"
            )
        # The tower's embeddings read squares of patches; its head is not part of the model.
        tower = with_changes(config.vision_config, merge=merge, vision_use_head=False)
        vision = VisionSpec(
            tower,
            None,
            _TOKENS,
            has_cls=False,
            feature_layers=(depth,),
            merge=merge,
            factor=settings.integer("patch_size", most=MOST_EDGE) * merge,
        )
        image_token = whole.integer("image_token_id", least=0)
        return VLMSpec(self, config, vision, decoder_spec(config), image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """How large pictures are made, and the ids of the tokens around them."""
        factor, least, most = MarkedResize.stated(image_processor(folder))
        check_edge(spec, factor, folder)
        marks = self._marks(folder)
        before, after = _ids(folder, marks) or ([], [])
        text = partial(_marked, marks) if marks else None
        stated = {"name": "marked-resize", "before": before, "after": after, "factor": factor}
        spec = of_pixels(spec, LayoutSpec(stated, text=text), least, most)
        cutting = TilesAndThumbnail.cutting_stated(image_processor(folder))
        return spec if cutting is None else self._cutting(spec, folder, cutting, marks)

    def _cutting(
        self, spec: VLMSpec, folder: Path, cutting: Cutting, marks: tuple[str, ...]
    ) -> VLMSpec:
        """Return ``spec`` with the layout that cuts beside the one that does not."""
        wrong = not 2 <= cutting.min_tiles <= cutting.max_tiles
        if wrong or cutting.tile % spec.vision.factor:
            raise CheckpointError(
                f"the image processor in {folder} cuts large pictures into {cutting.min_tiles} to "
                f"{cutting.max_tiles} tiles of {cutting.tile} pixels",
                expected="2 or more tiles, the least number first, of multiples of "
                f"{spec.vision.factor} pixels: for others transformers writes another number of "
                "tokens than it makes",
                advice="correct preprocessor_config.json, or set do_image_splitting to false",
            )
        numbers = range(1, cutting.max_tiles + 1)
        parts = [
            [_PART.format(row, column) for column in numbers if row * column <= cutting.max_tiles]
            for row in numbers
        ]
        tokenizer = load_tokenizer(folder)
        whole = str(getattr(tokenizer, _THUMBNAIL, None) or "<|img_thumbnail|>")
        named: list[list[list[int]]] = [
            _ids(folder, line) if marks else [[] for _ in line] for line in parts
        ]
        (whole_ids,) = _ids(folder, [whole]) if marks else [[]]
        one = spec.layouts["hf"]
        stated = {**one.stated, "name": TilesAndThumbnail.name, **asdict(cutting)}
        stated |= {"parts": named, "whole": whole_ids}
        cut = LayoutSpec(stated, text=partial(_named, marks, whole if marks else ""))
        return _with_tiles(spec, cut, cutting.max_tiles, cutting.tile, one)

    def _marks(self, folder: Path) -> tuple[str, ...]:
        """The tokens around a picture, none where the processor writes none."""
        stated = Settings(read_json(folder / "processor_config.json"), "processor_config.json")
        if not stated.boolean(_MARKED, True):
            return ()
        tokenizer = load_tokenizer(folder)
        return tuple(str(getattr(tokenizer, key, None) or token) for key, token in _MARKS.items())

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Make pictures and tiles smaller, cut into fewer tiles, or make all of one size."""
        spec = super().capped(spec, caps)
        cut, *others = spec.layouts.values()
        one = others[0] if others else cut
        own, least = one.stated["max_pixels"], one.stated["min_pixels"]
        square = spec.vision.factor**2
        if caps.fixed_size is not None:
            fixed = of_size(spec, one, caps.fixed_size, own)
            (layout,) = fixed.layouts.values()
            return replace(fixed, layouts=dict.fromkeys(spec.layouts, layout), caps=caps)
        # The processor counts tokens.
        most = pixels_allowed(spec, caps, own) // square * square
        least = smallest_area(least, most, spec.vision.factor)
        capped = of_pixels(spec, one, least, most)
        if not others:
            # Other layouts than it has are refused tiles in words of their own.
            return replace(capped, caps=replace(caps, max_pixels=most))
        least_tiles, most_tiles = cut.stated["min_tiles"], cut.stated["max_tiles"]
        if caps.max_tiles == 1 < least_tiles and "max_tiles" not in caps.suggested:
            raise RequestError(
                f"--max-tiles 1 is outside {least_tiles}..{most_tiles}, which this checkpoint was "
                "trained with",
                advice="give --layout whole instead, which cuts no picture",
                setting="max_tiles",
            )
        tiles = self.parts_allowed(caps, least_tiles, most_tiles)
        # A tile is a picture of its own to the tower.
        edge = cut.stated["tile"]
        if most < own:
            edge = min(edge, largest_tile(most, spec.vision.factor))
        (one,) = capped.layouts.values()
        made = _with_tiles(capped, cut, tiles, edge, one)
        return replace(made, caps=Caps(max_pixels=most, max_tiles=tiles))

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The projector without its pixel unshuffle: it reads the patches of a token side by side
        already."""
        projector = super().load_projector(weights, spec)
        parts = (projector.layer_norm, projector.linear_1, projector.act, projector.linear_2)
        return nn.Sequential(*(part for part in parts if part is not None)).eval()

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """See `Family.load_connector`: (1, rows, columns, C) of patches -> (1, rows, columns,
        decoder hidden) of tokens."""
        return super().load_projector(weights, spec)

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with the pixels that pictures are made of, and how they are cut."""
        config = super().image_processor_config(stated, spec, layout)
        config |= {"do_image_splitting": False}
        if "size" in layout.stated:
            return config
        square = spec.vision.factor**2
        tokens = {name: layout.stated[f"{name}_pixels"] // square for name in ("min", "max")}
        config |= {f"{name}_image_tokens": max(1, count) for name, count in tokens.items()}
        if "tile" not in layout.stated:
            return config
        return config | {
            "do_image_splitting": True,
            "tile_size": layout.stated["tile"],
            "max_tiles": layout.stated["max_tiles"],
            "max_pixels_tolerance": _tolerance(
                layout.stated["cut_above"], layout.stated["max_pixels"]
            ),
        }

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """The only tile, or of a picture that is cut the tiles; see `reference_batches`."""
        return self.reference_batches(processor, images, layout)[0]

    def reference_batches(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> Sequence[npt.NDArray[np.float32]]:
        """Put the processor's patches together again, tiles and the thumbnail apart.

        It has no word for a size that is not the picture's own: pictures are then brought to it
        before, and the processor is given that many tokens.
        """
        image, options = images[0], {}
        if (size := layout.stated.get("size")) is not None:
            image = image.resize((size[1], size[0]), Image.Resampling(processor.resample))
            tokens = size[0] * size[1] // layout.stated["factor"] ** 2
            options = {"min_image_tokens": tokens, "max_image_tokens": tokens}
        made = processor(images=[image], return_tensors="np", return_row_col_info=True, **options)
        shapes = made["spatial_shapes"].tolist()
        parts = [
            picture_of(patches, *shape)
            for patches, shape in zip(made["pixel_values"], shapes, strict=True)
        ]
        tiles = int(made["image_rows"][0] * made["image_cols"][0])
        return [np.stack(parts[:tiles]), *(part[None] for part in parts[tiles:])]

    def reference_features(
        self, tower: Any, connector: Any, spec: VLMSpec, pixel_values: torch.Tensor
    ) -> ReferenceFeatures:
        """Features as `Lfm2VlModel.get_image_features` takes them."""
        edge = spec.vision.config.patch_size
        rows, columns = (length // edge for length in pixel_values.shape[2:])
        patches = torch.from_numpy(patches_of(pixel_values[0].numpy(), edge))[None]
        output = tower(
            pixel_values=patches,
            pixel_attention_mask=torch.ones((1, rows * columns), dtype=torch.int32),
            spatial_shapes=torch.tensor([[rows, columns]]),
        )
        features = output.last_hidden_state
        projected = connector(features.view(1, rows, columns, -1))
        return ReferenceFeatures(features[0], projected.flatten(0, 2))


def _ids(folder: Path, marks: Sequence[str]) -> list[list[int]]:
    """The id of each of these tokens, a list of one; raises `CheckpointError` where one is none."""
    tokenizer = load_tokenizer(folder)
    ids = [text_ids(tokenizer, mark) for mark in marks]
    if missing := [mark for mark, each in zip(marks, ids, strict=True) if len(each) != 1]:
        raise CheckpointError(
            f"the tokenizer in {folder} has no token {missing[0]}",
            advice="give the whole checkpoint, with the tokenizer's added tokens",
        )
    return ids


def _with_tiles(spec: VLMSpec, cut: LayoutSpec, tiles: int, edge: int, one: LayoutSpec) -> VLMSpec:
    """Return ``spec`` with ``cut`` for so many tiles of that edge in pixels, the default, and
    ``one`` for pictures of one tile."""
    pixels = {name: one.stated[name] for name in ("min_pixels", "max_pixels")}
    parts = [line[: tiles // row] for row, line in enumerate(cut.stated["parts"][:tiles], start=1)]
    stated = {**cut.stated, **pixels, "tile": edge, "max_tiles": tiles, "parts": parts}
    tokens = max(spec.vision.tokens, (edge // spec.vision.factor) ** 2)
    return replace(
        spec,
        vision=replace(spec.vision, tokens=tokens),
        layouts={"hf": replace(cut, stated=stated), "whole": one},
    )


def _tolerance(cut_above: int, max_pixels: int) -> float:
    """By which factor a picture has more than ``max_pixels`` where it has more than ``cut_above``:
    whole numbers of pixels compare alike with both."""
    tolerance = cut_above / max_pixels
    while max_pixels * tolerance < cut_above:
        tolerance = math.nextafter(tolerance, math.inf)
    return tolerance


def _marked(marks: tuple[str, ...], image_token: str, grid: TileGrid) -> str:
    """As LFM2-VL's processor writes a picture of one tile."""
    before, after = marks
    return f"{before}{image_token}{after}"


def _named(marks: tuple[str, ...], whole: str, image_token: str, grid: TileGrid) -> str:
    """As LFM2-VL's processor writes a picture that may be cut; without ``marks`` there are image
    tokens alone."""
    before, after = marks or ("", "")
    if grid.tiles == 1:
        return f"{before}{image_token}{after}"
    parts = [
        (_PART.format(row, column) if marks else "") + image_token
        for row in range(1, grid.rows + 1)
        for column in range(1, grid.columns + 1)
    ]
    thumbnail = "" if grid.whole is None else f"{whole}{image_token}"
    return f"{before}{''.join(parts)}{thumbnail}{after}"
