"""Opens a Hugging Face checkpoint safely: safetensors only, no code of the checkpoint, revision recorded."""

from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.identify import read_config
from pocketvlm_export.checkpoint.source import Source, fetch_weights, locate
from pocketvlm_export.checkpoint.weights import Weights

__all__ = ["Source", "Weights", "fetch_weights", "locate", "read_config", "read_json"]
