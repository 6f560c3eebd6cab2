"""Knows how the pixels that the runtime makes of a picture are compared with transformers' own
image processor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.layouts import Layout, open_layout
from pocketvlm_export.checkpoint import load_image_processor
from pocketvlm_export.families.spec import LayoutSpec
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.verification.pictures import cut_size, images_of
from pocketvlm_export.verification.vision_reference import Floats

_TOLERANCE = 1e-5
_TOKENS = 16
# (height, width) as parts of a tile or, with dynamic resolution, of so many tokens.
_SHAPES = ((1.5, 1.2), (0.4, 2.3), (1.0, 1.0))


def compare_pixels(
    checkpoint: Checkpoint, artifact: Artifact, layout: LayoutSpec
) -> dict[str, Any]:
    """Return how pixel_values of a few pictures, or of a clip, differ from those of transformers'
    class by the artifact's preprocessor_config.json. ``passed`` says whether they are equal.

    Its Pillow backend is meant: the torchvision one differs from it by one or two levels of 255.
    """
    processor = load_image_processor(artifact.root)
    runtime, vision = open_layout(artifact), checkpoint.spec.vision
    size = vision.image_size or (_TOKENS * vision.factor,) * 2
    differences = []
    for images in _inputs(runtime, size):
        ours = runtime.cut(images if runtime.medium == "video" else images[0]).batches
        theirs = checkpoint.family.reference_batches(processor, images, layout)
        differences.append(_differences(ours, theirs))
    if layout.several is not None:
        images = [image for (image,) in _inputs(runtime, size)[:2]]
        cut = [runtime.several.cut(image).pixel_values for image in images]
        pixels = checkpoint.family.reference_pixels(processor, images, layout.several)
        differences.append(_difference(np.concatenate(cut), pixels))
    largest = float(np.max(differences))
    return {"max_abs": largest, "pictures": len(differences), "passed": largest <= _TOLERANCE}


def _differences(ours: Sequence[Floats], theirs: Sequence[Floats]) -> float:
    if len(ours) != len(theirs):
        return float("inf")
    return max(_difference(one, other) for one, other in zip(ours, theirs, strict=True))


def _difference(ours: Floats, theirs: Floats) -> float:
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")


def _inputs(layout: Layout[Any], of: tuple[int, int]) -> Sequence[Sequence[Image.Image]]:
    height, width = of
    sizes = [(round(tall * height), round(wide * width)) for tall, wide in _SHAPES]
    if layout.medium == "video":
        return [images_of(layout.grids()[0].tiles, sizes[0])]
    cut = cut_size(layout)
    return [images_of(1, size) for size in (*sizes, *([] if cut is None else [cut]))]
