"""SmolVLM and Idefics3 (``smolvlm``, ``idefics3``): a SigLIP tower, squares of patches made one
token, a Llama decoder.

Checkpoints of the first SmolVLM call themselves ``idefics3``. What to know when they are pruned:

- SigLIP has no [CLS] token, so methods that rank patches by what [CLS] attends to (``fastervlm``
  and ``vtc-cls``) are refused. ``scope``, the default, weights them by received attention.
- Methods rank tokens after the pixel shuffle, which makes one of each square of ``scale_factor`` x
  ``scale_factor`` patches. A budget counts those (64 per tile in SmolVLM-256M), and a token's score
  is the mean over its patches.
- A budget is per tile. By the usual ``size`` of 2048 pixels a picture is up to 17 tiles (4 x 4
  parts and the whole). An export allows ``DEFAULT_TILES`` parts unless ``--max-tiles`` sets another
  number, and makes pictures smaller for that. Tokens between the tiles name them and are not
  pruned. ``do_image_splitting: false`` makes it one tile.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import transformers
from PIL import Image
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError
from pocketvlm.layouts import TileGrid, make_layout
from pocketvlm.layouts.idefics3 import geometry_of
from pocketvlm_export import upstream
from pocketvlm_export.caps import Caps
from pocketvlm_export.checkpoint import Settings, image_processor, load_tokenizer, text_ids
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import with_changes
from pocketvlm_export.families.base import MOST_EDGE, Family
from pocketvlm_export.families.spec import LayoutSpec, VisionSpec, VLMSpec
from pocketvlm_export.families.text_models import decoder_spec

_RULES = [
    (re.compile(r"^(model\.)?vision_model\."), "vision_tower."),
    (re.compile(r"^(model\.)?connector\."), "projector."),
    (re.compile(r"^(model\.)?text_model\."), "decoder.model."),
    (re.compile(r"^lm_head\."), "decoder.lm_head."),
]
_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"
_MOST_ROWS = 10  # of parts, and columns; the runtime cuts into no more


class SmolVLM(Family):
    """SmolVLM2."""

    model_type: ClassVar[str] = "smolvlm"
    processor: ClassVar[str] = "SmolVLMProcessor"
    tower: ClassVar[str] = "smolvlm_vision"
    projector: ClassVar[type[nn.Module]] = upstream.model_class("smolvlm", "SmolVLMConnector")
    rules: ClassVar[Sequence[tuple[re.Pattern[str], str]]] = _RULES
    caps: ClassVar[frozenset[str]] = frozenset({"max_tiles"})
    count_key: ClassVar[str] = "image_seq_len"

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        image_token = Settings.of(config).integer("image_token_id", least=0)
        return VLMSpec(self, config, self._vision(config), decoder_spec(config), image_token)

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """See `Family.read_processor`: how pictures are cut, and the ids of the tokens around their
        tiles."""
        longest, splits, edge, resizes = geometry_of(image_processor(folder))
        if spec.vision.image_size != (edge, edge):
            raise CheckpointError(
                f"the image processor in {folder} cuts tiles of {edge} pixels",
                expected=f"{spec.vision.tile_size[0]}, which the vision tower is made for",
                advice="set max_image_size to that, or give the processor of this model",
            )
        tokenizer = load_tokenizer(folder)
        around, whole = self.marks(tokenizer)
        stated = {
            "name": "idefics3",
            "longest_edge": longest,
            "splits": splits,
            **({} if resizes else {"resizes": False}),
            **_names(tokenizer, spec, folder, around, whole),
        }
        return _with_grids(spec, stated, partial(_marked_tiles, around, whole))

    def marks(self, tokenizer: transformers.PreTrainedTokenizerFast) -> tuple[str, str]:
        """The tokens around a tile and before the whole picture, as the processor calls them."""
        return (
            str(getattr(tokenizer, "fake_image_token", None) or _AROUND),
            str(getattr(tokenizer, "global_image_token", None) or _WHOLE),
        )

    def resized(self, spec: VLMSpec, size: tuple[int, int], folder: Path) -> VLMSpec:
        """See `Family.resized`: pictures are cut into as many parts as before."""
        resized = super().resized(spec, size, folder)
        if resized.vision.made_for is None:
            return spec
        (layout,) = spec.layouts.values()
        longest = layout.stated["longest_edge"] * size[0] // resized.vision.made_for[0]
        return _with_grids(resized, {**layout.stated, "longest_edge": longest}, layout.text)

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Make pictures so small that they are cut into no more parts; the whole picture's tile is
        not counted."""
        spec = super().capped(spec, caps)
        (layout,) = spec.layouts.values()
        largest = make_layout(spec.layout_config(layout.stated)).grids()[-1]
        own = largest.rows * largest.columns
        most = self.parts_allowed(caps, 1, own)
        if most == own and caps.max_tiles != most:
            return spec
        edge = math.isqrt(most) * spec.vision.tile_size[0]
        longest = min(layout.stated["longest_edge"], edge)
        stated = {**layout.stated, "longest_edge": longest}
        return replace(_with_grids(spec, stated, layout.text), caps=Caps(max_tiles=most))

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with the size that the layout makes pictures of."""
        config = super().image_processor_config(stated, spec, layout)
        if spec.vision.made_for is not None:
            config["max_image_size"] = {"longest_edge": spec.vision.tile_size[0]}
        if spec.caps.max_tiles is None and spec.vision.made_for is None:
            return config
        return {**config, "size": {"longest_edge": layout.stated["longest_edge"]}}

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """See `Family.reference_pixels`: lists of pictures are read as one prompt's."""
        longest, options = layout.stated["longest_edge"], {}
        is_larger = any(max(image.size) > longest for image in images)
        if layout.stated.get("resizes") is False and layout.stated["splits"] and is_larger:
            # A processor that resizes nothing has no words for pictures that are made smaller.
            options = {"do_resize": True, "size": {"longest_edge": longest}}
        pixels = processor(images=[list(images)], return_tensors="np", **options)["pixel_values"]
        return np.asarray(pixels).reshape(-1, *np.shape(pixels)[-3:])

    def load_projector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """The connector without its pixel shuffle: it reads the patches of a token side by side
        already."""
        projection: nn.Module = self.load_connector(weights, spec).modality_projection
        return projection

    def load_connector(self, weights: Weights, spec: VLMSpec) -> nn.Module:
        """See `Family.load_connector`."""
        return super().load_projector(weights, spec)

    def _vision(self, config: Any) -> VisionSpec:
        # Checkpoints of different years name the tower differently.
        tower = with_changes(config.vision_config, model_type=self.tower)
        settings = Settings.of(config).section("vision_config")
        edge, patch = (
            settings.integer(key, most=MOST_EDGE) for key in ("image_size", "patch_size")
        )
        merge = Settings.of(config).integer("scale_factor", most=64)
        if edge % patch or edge // patch % merge:
            raise CheckpointError(
                f"image_size {edge}, patch_size {patch} and scale_factor {merge} do not make whole "
                f"squares of {merge}x{merge} patches",
                advice="give a checkpoint where image_size / patch_size / scale_factor is whole",
            )
        side = edge // patch // merge
        depth = settings.integer("num_hidden_layers")
        return VisionSpec(
            tower, (edge, edge), side**2, has_cls=False, feature_layers=(depth,), merge=merge
        )


class Idefics3(SmolVLM):
    """Idefics3 and the first SmolVLM."""

    model_type: ClassVar[str] = "idefics3"
    processor: ClassVar[str] = "Idefics3Processor"
    tower: ClassVar[str] = "idefics3_vision"
    projector: ClassVar[type[nn.Module]] = upstream.model_class("idefics3", "Idefics3Connector")

    def marks(self, tokenizer: transformers.PreTrainedTokenizerFast) -> tuple[str, str]:
        """See `SmolVLM.marks`; this processor asks no tokenizer."""
        return _AROUND, _WHOLE

    def picture_token(self, tokenizer: transformers.PreTrainedTokenizerFast, folder: Path) -> str:
        """See `Family.picture_token`; likewise."""
        return self.place


def _names(
    tokenizer: transformers.PreTrainedTokenizerFast,
    spec: VLMSpec,
    folder: Path,
    around: str,
    whole: str,
) -> dict[str, Any]:
    """Token ids of what transformers' processor writes around the slots of a tile.

    It tokenizes prompts whole. What is between two image tokens can be tokenized alone, because
    special tokens split a text: that is checked.
    """
    image = tokenizer.convert_ids_to_tokens(spec.image_token_id)

    def between(text: str) -> list[int]:
        ids = text_ids(tokenizer, f"{image}{text}{image}")
        if (
            len(ids) < 2
            or {ids[0], ids[-1]} != {spec.image_token_id}
            or spec.image_token_id in ids[1:-1]
        ):
            raise CheckpointError(
                f"the tokenizer in {folder} does not read {image} and {around} as special tokens",
                advice="give the whole checkpoint, with the tokenizer's added tokens",
            )
        return ids[1:-1]

    around_ids = between(around)
    if len(around_ids) != 1:
        raise CheckpointError(
            f"the tokenizer in {folder} has no token {around}", advice="give the whole checkpoint"
        )
    marks = {"around": around_ids, "whole": between(f"{around}{whole}")[1:]}
    marks |= {
        "row_end": between(f"\n{around}")[:-1],
        "last_row_end": between(f"\n\n{around}")[:-1],
    }
    numbers = range(1, _MOST_ROWS + 1)
    parts = [
        [between(f"{around}<row_{row}_col_{column}>")[1:] for column in numbers] for row in numbers
    ]
    return {"marks": marks, "parts": parts}


def _with_grids(
    spec: VLMSpec, stated: dict[str, Any], text: Callable[[str, TileGrid], str] | None
) -> VLMSpec:
    """Return ``spec`` with the layout that is stated, the names of parts that no picture has left
    out."""
    layout = make_layout(spec.layout_config(stated))
    grids = [grid for grid in layout.grids() if grid.whole is not None]
    rows, columns = (
        max((getattr(grid, name) for grid in grids), default=0) for name in ("rows", "columns")
    )
    parts = [row[:columns] for row in stated["parts"][:rows]]
    made = LayoutSpec({**stated, "parts": parts}, text=text)
    return replace(spec, layouts={"hf": made})


def _marked_tiles(around: str, whole: str, image_token: str, grid: TileGrid) -> str:
    """As SmolVLM's processor names each tile."""
    rows, columns = (grid.rows, grid.columns) if grid.tiles > 1 else (0, 0)
    return upstream.image_prompt(rows, columns, 1, around, image_token, whole)
