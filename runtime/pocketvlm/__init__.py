"""PocketVLM's on-device runtime: answers questions about pictures from an exported folder. Imports
no torch.

>>> from pocketvlm import VLM
>>> vlm = VLM.load("demo-vlm")
>>> vlm.generate("What colour is the circle?", images=["examples/scene-2.png"]).text
' blue'
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pocketvlm import upstream
from pocketvlm.errors import PocketVLMError

upstream.opt_out()  # here, because every module of ours comes after this one

if TYPE_CHECKING:
    from pocketvlm.answer import Answer
    from pocketvlm.artifact import Artifact
    from pocketvlm.chat import Chat
    from pocketvlm.decoders.sampling import Sampling
    from pocketvlm.guided import Guided
    from pocketvlm.limits import (
        FeatureLimits,
        Limits,
        PictureLimits,
        SequenceLimits,
        VideoLimits,
    )
    from pocketvlm.ort.settings import EngineSettings, Provider
    from pocketvlm.vlm import VLM

__version__ = version("pocketvlm")
__all__ = [
    "VLM",
    "Answer",
    "Artifact",
    "Chat",
    "EngineSettings",
    "FeatureLimits",
    "Guided",
    "Limits",
    "PictureLimits",
    "PocketVLMError",
    "Provider",
    "Sampling",
    "SequenceLimits",
    "VideoLimits",
    "__version__",
]

# Loaded on first use, so that the command line answers --help without waiting for ONNX Runtime.
_LAZY = {
    "VLM": "pocketvlm.vlm",
    "Answer": "pocketvlm.answer",
    "Artifact": "pocketvlm.artifact",
    "Chat": "pocketvlm.chat",
    "EngineSettings": "pocketvlm.ort.settings",
    "Provider": "pocketvlm.ort.settings",
    "FeatureLimits": "pocketvlm.limits",
    "Guided": "pocketvlm.guided",
    "Limits": "pocketvlm.limits",
    "PictureLimits": "pocketvlm.limits",
    "Sampling": "pocketvlm.decoders.sampling",
    "SequenceLimits": "pocketvlm.limits",
    "VideoLimits": "pocketvlm.limits",
}


if not TYPE_CHECKING:  # to a type checker every other name would be there too, as Any

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)
