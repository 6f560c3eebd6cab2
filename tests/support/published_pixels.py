"""Knows the pictures of tests/data/pixels.json, and what Hugging Face's PIL backends made of
them."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

_DATA = Path(__file__).parents[1] / "data"
ROWS = json.loads((_DATA / "pixels.json").read_text())
GEOMETRY = json.loads((_DATA / "geometry.json").read_text())


def rows_of(family):
    return [row for row in ROWS if row["family"] == family]


def blocks(width, height):
    """4 x 6 coloured rectangles."""
    small = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


def assert_as_published(pixels, row):
    """Bit for bit, or by figures where this is another Pillow than made them."""
    assert list(pixels.shape) == row["shape"]
    assert pixels.dtype == np.float32
    if hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() != row["sha256"]:
        np.testing.assert_allclose(pixels.ravel()[:6], row["first"], atol=0.04)
        np.testing.assert_allclose(
            [pixels.mean(), pixels.std()], [row["mean"], row["std"]], atol=0.01
        )
