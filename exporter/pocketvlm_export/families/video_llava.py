"""Video-LLaVA (``model_type: video_llava``): LLaVA's parts, which read eight frames of a clip;
`pocketvlm.layouts.frames`.

Its two towers are alike but for their weights. That for clips is exported unless ``--media``
selects the other, or both. Pictures then have a second vision graph, because they go through the
tower for pictures, as LLaVA's do (``VideoLlavaModel.get_image_features``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig

from pocketvlm.layouts import Medium
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import Settings, image_processor
from pocketvlm_export.families.base import Family
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.families.spec import LayoutSpec, VLMSpec

_FRAMES = 8  # as it was trained; its configuration does not state it
_IMAGE_TOWER = re.compile(r"^(model\.)?image_tower\.")
_VIDEO_TOWER = re.compile(r"^(model\.)?video_tower\.")


class VideoLlavaPictures(Llava):
    """Its still pictures: one tile each, [CLS] ranks patches and is dropped."""

    model_type: ClassVar[str] = "video_llava"
    processor: ClassVar[str] = "VideoLlavaProcessor"
    unread: ClassVar[Sequence[re.Pattern[str]]] = [*Llava.unread, _VIDEO_TOWER]
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "video_llava", "VideoLlavaMultiModalProjector"
    )

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        # No other client is promised a model with two kinds of places.
        return replace(super().parse(config), layouts={"single": LayoutSpec({"name": "single"})})

    def canonical(self, stored: str) -> str | None:
        """See `Family.canonical`."""
        if _VIDEO_TOWER.match(stored):
            return None
        return super().canonical(_IMAGE_TOWER.sub("vision_tower.", stored))

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """See `Family.reference_pixels`."""
        return _pixels(processor, images)


class VideoLlava(Llava):
    """LanguageBind/Video-LLaVA-7B-hf and its like."""

    model_type: ClassVar[str] = "video_llava"
    processor: ClassVar[str] = "VideoLlavaProcessor"
    medium: ClassVar[Medium] = "video"
    beside: ClassVar[Mapping[Medium, Family]] = {"image": VideoLlavaPictures()}
    place_key: ClassVar[str] = "video_token"
    place: ClassVar[str] = "<video>"
    unread: ClassVar[Sequence[re.Pattern[str]]] = [*Llava.unread, _IMAGE_TOWER]
    projector: ClassVar[type[nn.Module]] = upstream.model_class(
        "video_llava", "VideoLlavaMultiModalProjector"
    )

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        layouts = {
            "fastervlm": LayoutSpec(
                {"name": "frames", "frames": _FRAMES}, exact=False, order=_frame_after_frame
            ),
            "hf": LayoutSpec(
                {"name": "frames", "frames": _FRAMES, "cls": True},
                with_cls=True,
                order=_frame_after_frame,
            ),
        }
        return replace(
            super().parse(config),
            image_token_id=Settings.of(config).integer("video_token_id", least=0),
            layouts=layouts,
        )

    def tokens_counted(self, spec: VLMSpec, stated: Settings) -> int | None:
        """See `Family.tokens_counted`: of clips [CLS] is read too, whatever the strategy is."""
        return None

    def contradictions(self, spec: VLMSpec, folder: Path) -> Sequence[str]:
        """See `Family.contradictions`: another number of frames."""
        stated = Settings(image_processor(folder, self.medium), "the video processor")
        samples = stated.boolean("do_sample_frames", False)
        if not samples or stated.integer("num_frames", _FRAMES) == _FRAMES:
            return ()
        return (
            f"the video processor takes {stated.integer('num_frames')} frames of a clip; the "
            f"artifact takes {_FRAMES}, as the model was trained",
        )

    def canonical(self, stored: str) -> str | None:
        """See `Family.canonical`."""
        if _IMAGE_TOWER.match(stored):
            return None
        return super().canonical(_VIDEO_TOWER.sub("vision_tower.", stored))

    def reference_pixels(
        self, processor: Any, images: Sequence[Image.Image], layout: LayoutSpec
    ) -> npt.NDArray[np.float32]:
        """See `Family.reference_pixels`: frames go through the processor of pictures."""
        return _pixels(processor, images)


def _pixels(processor: Any, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
    made = processor(images=list(images), return_tensors="np", return_legacy_image_output=False)
    return np.asarray(made["pixel_values"])


def _frame_after_frame(config: Any, tiles: int, tokens: int, size: tuple[int, int]) -> list[int]:
    """As `VideoLlavaModel.get_placeholder_mask` flattens frames and tokens into one axis."""
    numbers = torch.arange(tiles * tokens).reshape(tiles, tokens)
    flattened: list[int] = numbers.flatten(0, 1).tolist()
    return flattened
