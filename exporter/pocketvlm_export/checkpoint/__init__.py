"""Opens a Hugging Face checkpoint safely: safetensors only, no code of the checkpoint, revision
recorded."""

from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.headers import fetch_weights, read_headers
from pocketvlm_export.checkpoint.identify import read_config
from pocketvlm_export.checkpoint.processor import (
    image_processor,
    load_image_processor,
    load_tokenizer,
    text_ids,
)
from pocketvlm_export.checkpoint.source import Source, locate
from pocketvlm_export.checkpoint.weights import Weights

__all__ = [
    "Source",
    "Weights",
    "fetch_weights",
    "image_processor",
    "load_image_processor",
    "load_tokenizer",
    "locate",
    "read_config",
    "read_headers",
    "read_json",
    "text_ids",
]
