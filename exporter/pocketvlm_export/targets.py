"""Knows what a deployment target asks of an export; imports neither torch nor transformers."""

from collections.abc import Mapping
from typing import Any

from pocketvlm_export.options import DECODERS
from pocketvlm_targets import Target

# Keys that mean something only where the decoder in force has that engine.
_OF_ENGINE = {"decoder_precision": "onnx", "embed_precision": "onnx", "gguf_type": "llama.cpp"}
_OF_ANSWERING = {"description", "threads"}


def export_wishes(target: Target, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the target's values for `pocketvlm export`, as `pocketvlm.cli.target.Wishes`."""
    engines = DECODERS[given["decoder"]]
    settings = {
        key: value
        for key, value in target.settings().items()
        if _OF_ENGINE.get(key) in (None, *engines)
    }
    if given["pruner"] == "none":  # which keeps all tokens, whatever the device likes
        settings.pop("budget", None)
    if given.get("total_budget"):
        settings.pop("budget", None)
    if "format" in settings:
        settings["graph_format"] = settings.pop("format")
    if not settings.get("portable"):  # as it is anyway
        settings.pop("portable", None)
    return {key: value for key, value in settings.items() if key not in _OF_ANSWERING}
