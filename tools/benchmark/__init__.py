"""Measures speed and memory side by side: ratios from one interleaved run on a quiet machine."""
