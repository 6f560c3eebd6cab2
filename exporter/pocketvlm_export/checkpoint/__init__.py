"""Opens a Hugging Face checkpoint safely: safetensors only, no code of the checkpoint, revision recorded."""

from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.identify import check_transformers, read_config
from pocketvlm_export.checkpoint.source import Source, locate
from pocketvlm_export.checkpoint.weights import Weights

__all__ = ["Source", "Weights", "check_transformers", "locate", "read_config", "read_json"]
