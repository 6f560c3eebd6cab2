"""Writes the demo's questions as files that `pocketvlm evaluate` reads."""
