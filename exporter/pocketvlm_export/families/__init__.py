"""VLM families by Hugging Face ``model_type``; a new one is a module here and one line of `FAMILIES`."""

from pocketvlm_export.families.base import DecoderSpec, Family, LayoutSpec, VisionSpec, VLMSpec
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.families.llava_next import LlavaNext

FAMILIES: dict[str, Family] = {family.model_type: family for family in (Llava(), LlavaNext())}

__all__ = ["FAMILIES", "DecoderSpec", "Family", "LayoutSpec", "VLMSpec", "VisionSpec"]
