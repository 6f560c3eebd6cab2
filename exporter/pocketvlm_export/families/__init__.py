"""VLM families by Hugging Face ``model_type``; a new one is a module here and one line of
`FAMILIES`."""

from pocketvlm_export.families.base import Family
from pocketvlm_export.families.gemma3 import Gemma3
from pocketvlm_export.families.internvl import InternVL
from pocketvlm_export.families.lfm2_vl import Lfm2VL
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.families.llava_next import LlavaNext
from pocketvlm_export.families.llava_onevision import LlavaOnevision
from pocketvlm_export.families.paligemma import PaliGemma
from pocketvlm_export.families.qwen2_vl import Qwen2VL, Qwen25VL
from pocketvlm_export.families.qwen3_vl import Qwen3VL
from pocketvlm_export.families.smolvlm import Idefics3, SmolVLM
from pocketvlm_export.families.spec import DecoderSpec, LayoutSpec, VisionSpec, VLMSpec
from pocketvlm_export.families.video_llava import VideoLlava

_KNOWN: tuple[Family, ...] = (
    Llava(),
    LlavaNext(),
    LlavaOnevision(),
    SmolVLM(),
    Idefics3(),
    VideoLlava(),
    InternVL(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    Gemma3(),
    Lfm2VL(),
    PaliGemma(),
)
FAMILIES: dict[str, Family] = {family.model_type: family for family in _KNOWN}

__all__ = ["FAMILIES", "DecoderSpec", "Family", "LayoutSpec", "VLMSpec", "VisionSpec"]
