"""PocketVLM's on-device runtime: answers questions about pictures from an exported folder. Imports no torch."""

from pocketvlm.errors import PocketVLMError

__all__ = ["PocketVLMError"]
