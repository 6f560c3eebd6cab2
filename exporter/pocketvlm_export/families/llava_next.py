"""LLaVA-NeXT (``model_type: llava_next``): LLaVA's parts, and pictures cut into tiles of which rows
end in newlines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError, RequestError
from pocketvlm_export import upstream
from pocketvlm_export.caps import Caps
from pocketvlm_export.checkpoint import Settings, image_processor, read_json
from pocketvlm_export.checkpoint.settings import brief
from pocketvlm_export.checkpoint.weights import Weights
from pocketvlm_export.families.assembly import check_shape, with_changes
from pocketvlm_export.families.base import MOST_EDGE
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.families.spec import NEWLINE, LayoutSpec, VLMSpec

NEWLINE_NAME = "image_newline"
_PINPOINTS = "image_grid_pinpoints"


class LlavaNext(Llava):
    """LLaVA 1.6 and its like."""

    model_type: ClassVar[str] = "llava_next"
    processor: ClassVar[str] = "LlavaNextProcessor"
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "llava_next", "LlavaNextMultiModalProjector"
    )
    caps: ClassVar[frozenset[str]] = frozenset({"max_tiles"})

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        return self.with_pinpoints(super().parse(config), listed_sizes(Settings.of(config)))

    def layouts(self, pinpoints: list[list[int]], spec: VLMSpec) -> Mapping[str, LayoutSpec]:
        """Its layouts, where pictures are cut by the sizes listed, (height, width) in pixels."""
        return {
            "fastervlm": LayoutSpec(
                {"name": "anyres-fastervlm", "pinpoints": pinpoints}, exact=False, order=_stitched
            ),
            "hf": LayoutSpec(
                {"name": "anyres-hf", "pinpoints": pinpoints},
                constants=(NEWLINE_NAME,),
                order=_packed,
            ),
        }

    def with_pinpoints(self, spec: VLMSpec, listed: Any) -> VLMSpec:
        """Return ``spec`` with pictures cut by the listed sizes, (height, width) in pixels."""
        pinpoints = [list(size) for size in listed]
        config = with_changes(spec.config, **{_PINPOINTS: pinpoints})
        return replace(spec, config=config, layouts=self.layouts(pinpoints, spec))

    def read_processor(self, spec: VLMSpec, folder: Path) -> VLMSpec:
        """The order of the sizes: of those that suit a picture equally well the first is taken."""
        own = [list(size) for size in spec.config.image_grid_pinpoints]
        listed = listed_sizes(Settings(image_processor(folder), "the image processor"))
        if sorted(own) != sorted(listed):
            raise CheckpointError(
                f"the image processor in {folder} cuts pictures into {brief(listed)}, the model "
                f"puts {brief(own)} together: the two configurations are of two models",
                advice="give the processor of this model",
            )
        return self.with_pinpoints(spec, listed)

    def contradictions(self, spec: VLMSpec, folder: Path) -> Sequence[str]:
        """The same sizes in two orders."""
        own = listed_sizes(Settings(read_json(folder / "config.json"), "config.json"))
        counted = super().contradictions(spec, folder)
        if own == spec.config.image_grid_pinpoints:
            return counted
        return (
            *counted,
            "config.json and the image processor list image_grid_pinpoints in two orders; the "
            "processor's is used, for pictures are cut by it (of sizes that suit a picture equally "
            "well, transformers cuts by one and puts together by the other)",
        )

    def square(self, settings: Settings) -> bool:
        """See `Family.square`."""
        return True

    def resized(self, spec: VLMSpec, size: tuple[int, int], folder: Path) -> VLMSpec:
        """See `Family.resized`: the sizes that pictures are cut into have as many tiles as
        before."""
        resized = super().resized(spec, size, folder)
        if resized.vision.made_for is None:
            return spec
        edge, listed = resized.vision.made_for[0], spec.config.image_grid_pinpoints
        if odd := [side for pinpoint in listed for side in pinpoint if side % edge]:
            raise RequestError(
                f"--image-size {size[0]}: {_PINPOINTS} has a side of {odd[0]} pixels, which is not "
                f"a whole number of tiles of {edge}",
                advice="leave it out",
                setting="image_size",
            )
        scaled = [[side // edge * size[0] for side in pinpoint] for pinpoint in listed]
        return self.with_pinpoints(resized, scaled)

    def capped(self, spec: VLMSpec, caps: Caps) -> VLMSpec:
        """Leave out the grids of more tiles; the whole picture's tile is not counted."""
        spec = super().capped(spec, caps)
        edge, listed = spec.vision.tile_size[0], spec.config.image_grid_pinpoints
        parts = [_parts(size, edge) for size in listed]
        most = self.parts_allowed(caps, min(parts), max(parts))
        if most == max(parts) and caps.max_tiles != most:
            return spec
        within = [size for size, count in zip(listed, parts, strict=True) if count <= most]
        return replace(self.with_pinpoints(spec, within), caps=Caps(max_tiles=most))

    def canonical(self, stored: str) -> str | None:
        """See `Family.canonical`."""
        return (
            NEWLINE_NAME
            if stored.removeprefix("model.") == NEWLINE_NAME
            else super().canonical(stored)
        )

    def load_constants(self, weights: Weights, spec: VLMSpec) -> Mapping[str, torch.Tensor]:
        """The newline."""
        newline = weights.tensor(NEWLINE_NAME)
        check_shape(NEWLINE_NAME, newline, (spec.decoder.hidden,))
        return {NEWLINE_NAME: newline}

    def model_config(self, stated: Mapping[str, Any], spec: VLMSpec) -> dict[str, Any]:
        """Return it with the grids that are left."""
        return {**super().model_config(stated, spec), **_pinpoints(spec)}

    def image_processor_config(
        self, stated: Mapping[str, Any], spec: VLMSpec, layout: LayoutSpec
    ) -> dict[str, Any]:
        """Return it with the grids that are left."""
        return {**super().image_processor_config(stated, spec, layout), **_pinpoints(spec)}


def listed_sizes(settings: Settings) -> list[list[int]]:
    """The sizes that pictures may be cut into, (height, width) in pixels."""
    listed = settings.stated(_PINPOINTS)
    are_sizes = isinstance(listed, (list, tuple)) and all(
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(type(edge) is int and 1 <= edge <= MOST_EDGE for edge in size)
        for size in listed
    )
    if not listed or not are_sizes:
        raise settings.refusal(_PINPOINTS, "a list of [height, width] in pixels")
    return [list(size) for size in listed]


def _parts(size: Any, edge: int) -> int:
    return int(size[0] // edge) * int(size[1] // edge)


def _pinpoints(spec: VLMSpec) -> dict[str, Any]:
    return {_PINPOINTS: [list(size) for size in spec.config.image_grid_pinpoints]}


def _packed(config: Any, tiles: int, tokens: int, size: tuple[int, int]) -> list[int]:
    """As transformers packs features, done to the numbers of tokens instead."""
    numbers = torch.arange(tiles * tokens, dtype=torch.float32).reshape(tiles, tokens, 1)
    packed = upstream.pack_image_features(config, numbers, size, torch.tensor([float(NEWLINE)]))
    return [int(number) for number in packed[:, 0]]


def _stitched(config: Any, tiles: int, tokens: int, size: tuple[int, int]) -> list[int]:
    """As FasterVLM's code: the whole picture, then the map of all parts, without unpadding or
    newlines."""
    vision = config.vision_config
    rows, columns = upstream.tile_grid(size, config.image_grid_pinpoints, vision.image_size)
    side = vision.image_size // vision.patch_size
    whole, *parts = torch.arange(tiles * tokens).reshape(tiles, tokens)
    stitched = torch.stack(parts).view(rows, columns, side, side).permute(0, 2, 1, 3)
    return [*whole.tolist(), *stitched.flatten().tolist()]
