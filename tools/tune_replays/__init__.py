"""Holds the choices of `pocketvlm tune` against a grid of the demo's answers that was recorded
once."""
