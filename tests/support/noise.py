"""Pictures of noise of any size."""

import numpy as np
from PIL import Image


def picture(width, height):
    """An RGB image; the same for the same size."""
    pixels = np.random.default_rng(width * 1000 + height).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels)
