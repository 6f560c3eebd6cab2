"""Video-LLaVA (``model_type: video_llava``): LLaVA's parts, which read eight frames of a clip;
`pocketvlm.layouts.frames`.

Its two towers are alike but for their weights. Only that for clips is exported: questions about
still pictures are refused, which would take a second tower in every artifact.
"""

import re
from dataclasses import replace

from torch import nn
from transformers import PretrainedConfig

from pocketvlm.layouts import Medium
from pocketvlm_export import upstream
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.families.spec import LayoutSpec, VLMSpec

_FRAMES = 8  # as it was trained; its configuration does not state it
_IMAGE_TOWER = re.compile(r"(model\.)?image_tower\.")
_VIDEO_TOWER = re.compile(r"^(model\.)?video_tower\.")


class VideoLlava(Llava):
    """The `Family` of LanguageBind/Video-LLaVA-7B-hf and its like."""

    model_type = "video_llava"
    processor = "VideoLlavaProcessor"
    medium: Medium = "video"
    projector: type[nn.Module] = upstream.VideoLlavaMultiModalProjector

    def parse(self, config: PretrainedConfig) -> VLMSpec:
        """See `Family.parse`."""
        layouts = {
            "fastervlm": LayoutSpec({"name": "frames", "frames": _FRAMES}, exact=False),
            "hf": LayoutSpec({"name": "frames", "frames": _FRAMES, "cls": True}, with_cls=True),
        }
        return replace(
            super().parse(config), image_token_id=int(config.video_token_id), layouts=layouts
        )

    def canonical(self, stored: str) -> str | None:
        """See `Family.canonical`."""
        if _IMAGE_TOWER.match(stored):
            return None
        return super().canonical(_VIDEO_TOWER.sub("vision_tower.", stored))
