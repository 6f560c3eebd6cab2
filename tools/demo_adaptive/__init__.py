"""Measures what the adaptive budget gains on the demo's questions."""
