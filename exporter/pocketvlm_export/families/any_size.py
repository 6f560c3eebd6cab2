"""Knows how families export whose pictures keep their proportions: any number of pixels within
limits, or all of one size."""

from dataclasses import replace
from pathlib import Path

from pocketvlm.errors import CheckpointError, RequestError
from pocketvlm_export.caps import DEFAULT_TOKENS, Caps
from pocketvlm_export.families.spec import LayoutSpec, VLMSpec


def check_edge(spec: VLMSpec, factor: int, folder: Path) -> None:
    """Refuse an image processor in ``folder`` that makes pictures of other multiples of pixels than
    the tower's tokens have; raises `CheckpointError`."""
    if factor != spec.vision.factor:
        raise CheckpointError(
            f"the image processor in {folder} makes multiples of {factor} pixels",
            expected=f"{spec.vision.factor}, the edge of a token of the vision tower",
            advice="give the processor of this model",
        )


def pixels_allowed(spec: VLMSpec, caps: Caps, own: int) -> int:
    """Return how many pixels pictures have at most, of ``own`` that the image processor allows;
    raises `RequestError` where others are asked for."""
    token = spec.vision.factor**2
    most = caps.pixels_within(own)
    if most is None:
        return min(own, DEFAULT_TOKENS * token)
    if not token <= most <= own:
        raise RequestError(
            f"--max-pixels {most} is outside {token}..{own}, a single token and what this "
            "checkpoint's image processor allows",
            advice=f"give at most {own}" if most > own else "give more",
            setting="max_pixels",
        )
    return most


def of_pixels(spec: VLMSpec, layout: LayoutSpec, least: int, most: int) -> VLMSpec:
    """Return ``spec`` for pictures of so many pixels."""
    stated = {**layout.stated, "min_pixels": least, "max_pixels": most}
    vision = replace(spec.vision, tokens=most // spec.vision.factor**2)
    return replace(spec, vision=vision, layouts={"hf": replace(layout, stated=stated)})


def of_size(spec: VLMSpec, layout: LayoutSpec, size: tuple[int, int], most: int) -> VLMSpec:
    """Return ``spec`` for pictures of one size, of at most so many pixels. Raises `RequestError`
    for a size that is not a whole number of tokens, or larger."""
    factor = spec.vision.factor
    if any(edge % factor for edge in size):
        raise RequestError(
            f"--fixed-size {size[0]}x{size[1]} is not a whole number of tokens",
            expected=f"multiples of {factor} pixels",
            advice="give " + "x".join(str(max(1, round(edge / factor)) * factor) for edge in size),
            setting="fixed_size",
        )
    if size[0] * size[1] > most:
        raise RequestError(
            f"--fixed-size {size[0]}x{size[1]} has {size[0] * size[1]} pixels",
            expected=f"at most {most}, which this checkpoint's image processor allows",
            setting="fixed_size",
        )
    stated = {
        name: value
        for name, value in layout.stated.items()
        if name not in ("min_pixels", "max_pixels")
    }
    tokens = (size[0] // factor) * (size[1] // factor)
    vision = replace(spec.vision, image_size=size, tokens=tokens)
    fixed = replace(layout, stated={**stated, "size": list(size)})
    return replace(spec, vision=vision, layouts={"hf": fixed})
