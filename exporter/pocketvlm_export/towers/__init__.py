"""Vision towers by Hugging Face ``model_type``; a new one is a module here and one line of
`TOWERS`."""

from pocketvlm_export.towers.base import Block, Tower
from pocketvlm_export.towers.clip import Clip
from pocketvlm_export.towers.dinov2 import DINOv2
from pocketvlm_export.towers.internvl import InternVLVision
from pocketvlm_export.towers.qwen import Qwen2VLVision, Qwen25VLVision
from pocketvlm_export.towers.qwen3_vl import Qwen3VLVision
from pocketvlm_export.towers.siglip import Idefics3Vision, Siglip, SmolVLMVision
from pocketvlm_export.towers.siglip2 import Siglip2Vision

TOWERS: dict[str, Tower] = {
    tower.model_type: tower
    for tower in (
        Clip(),
        DINOv2(),
        InternVLVision(),
        Qwen2VLVision(),
        Qwen25VLVision(),
        Qwen3VLVision(),
        Siglip(),
        Idefics3Vision(),
        SmolVLMVision(),
        Siglip2Vision(),
    )
}

__all__ = ["TOWERS", "Block", "Tower"]
