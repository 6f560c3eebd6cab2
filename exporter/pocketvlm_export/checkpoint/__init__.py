"""Opens a Hugging Face checkpoint safely: safetensors only, no code of the checkpoint, revision
recorded."""

from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.generation import (
    generation_conflicts,
    generation_notes,
    generation_settings,
    generation_warnings,
    read_generation,
)
from pocketvlm_export.checkpoint.headers import fetch_weights, read_headers
from pocketvlm_export.checkpoint.identify import read_config
from pocketvlm_export.checkpoint.processor import (
    chat_template,
    conflicts,
    image_processor,
    load_image_processor,
    load_tokenizer,
    special_tokens,
    text_ids,
)
from pocketvlm_export.checkpoint.settings import Settings
from pocketvlm_export.checkpoint.source import Source, locate
from pocketvlm_export.checkpoint.weights import Weights

__all__ = [
    "Settings",
    "Source",
    "Weights",
    "chat_template",
    "conflicts",
    "fetch_weights",
    "generation_conflicts",
    "generation_notes",
    "generation_settings",
    "generation_warnings",
    "image_processor",
    "load_image_processor",
    "load_tokenizer",
    "locate",
    "read_config",
    "read_generation",
    "read_headers",
    "read_json",
    "special_tokens",
    "text_ids",
]
