"""Trains the projector and the decoder of `reference_vlm` on pictures that come inside packages."""
