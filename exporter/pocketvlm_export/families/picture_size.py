"""Knows how a checkpoint whose pictures, or tiles, have one size is read at another: which sizes
are allowed, and the dimensions and image processor's settings that follow."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig

from pocketvlm.errors import RequestError
from pocketvlm_export.checkpoint import Settings
from pocketvlm_export.families.assembly import with_changes
from pocketvlm_export.families.spec import VLMSpec
from pocketvlm_export.towers import TOWERS

# Of each edge that the checkpoint was made for, in quarters. Outside, little is left of what the
# table of positions was trained for.
_LEAST, _MOST = 1, 8
_SHARES = (3, 2)  # of an edge, in quarters: sizes worth a try, the larger first

_COUNT = "image_seq_length"  # tokens of a picture or tile, in several files

Size = tuple[int, int]  # (height, width) in pixels


def token_edge(spec: VLMSpec) -> int:
    """Edge in pixels of the square that a token is of."""
    stated = spec.vision.config.patch_size
    patch = stated[0] if isinstance(stated, (list, tuple)) else stated
    return int(patch) * spec.vision.merge


def smaller_sizes(spec: VLMSpec) -> tuple[Size, ...]:
    """Return sizes of pictures or tiles that are worth a try beside the checkpoint's own: whole
    tokens, about three quarters and half of each edge, the larger first. None where its tower
    reads no other size."""
    own = spec.vision.image_size
    if own is None or TOWERS[spec.vision.config.model_type].stretching is None:
        return ()
    unit = token_edge(spec)
    sizes = [
        (_whole(own[0] * share / 4, unit), _whole(own[1] * share / 4, unit)) for share in _SHARES
    ]
    return tuple(size for size in dict.fromkeys(sizes) if size != own and _is_within(size, own))


def suited(spec: VLMSpec, size: Size, *, square: bool) -> Size | None:
    """Return what of a ``size`` that a device suggests suits the checkpoint: whole tokens, no more
    than its own; None where it has its own or reads no other."""
    own = spec.vision.image_size
    if own is None or TOWERS[spec.vision.config.model_type].stretching is None:
        return None
    unit = token_edge(spec)
    height, width = (
        max(_up(edge * _LEAST / 4, unit), min(wanted, edge) // unit * unit)
        for wanted, edge in zip(size, own, strict=True)
    )
    if min(size[0] - own[0], size[1] - own[1]) >= 0:
        return None
    return (min(height, width),) * 2 if square else (height, width)


def at_size(spec: VLMSpec, size: Size, *, square: bool) -> VLMSpec:
    """Return ``spec`` for pictures or tiles of another size than its own.

    Args:
        spec: of the checkpoint.
        size: what is asked for.
        square: what reads the tower takes a square of tokens for granted.

    Raises:
        RequestError: a size that the tower cannot read, or nobody should ask of it.
    """
    vision = spec.vision
    if vision.image_size is None or TOWERS[vision.config.model_type].stretching is None:
        raise _not_one_size(spec, size)
    if size == vision.image_size:
        return spec
    _check(spec, size, vision.image_size, square=square)
    is_listed = size[0] != size[1] or isinstance(vision.config.image_size, (list, tuple))
    edges = list(size) if is_listed else size[0]
    unit, tower = token_edge(spec), with_changes(vision.config, image_size=edges)
    return replace(
        spec,
        config=with_changes(spec.config, vision_config=tower),
        vision=replace(
            vision,
            image_size=size,
            tokens=(size[0] // unit) * (size[1] // unit),
            made_for=vision.image_size,
        ),
    )


def _check(spec: VLMSpec, size: Size, own: Size, *, square: bool) -> None:
    """Refuse a size that is not a whole number of tokens, too far from the checkpoint's ``own``, or
    not ``square`` where that is wanted; raises `RequestError`."""
    unit = token_edge(spec)
    if any(edge % unit for edge in size):
        nearest = "x".join(str(_whole(edge, unit)) for edge in size)
        raise _refusal(size, f"multiples of {unit} pixels, the edge of a token", f"give {nearest}")
    if not _is_within(size, own):
        least, most = ("x".join(map(str, _bounds(own, unit, part))) for part in (_LEAST, _MOST))
        raise _refusal(
            size, f"{least} to {most}, a quarter to twice the size that the checkpoint was made for"
        )
    if square and size[0] != size[1]:
        raise _refusal(
            size,
            f"one edge for height and width, as {spec.family.model_type} checkpoints with this "
            "image processor read squares",
            f"give {min(size)}",
        )


def own_config(spec: VLMSpec) -> PretrainedConfig:
    """Return the checkpoint's configuration, whatever size of pictures `at_size` was asked for."""
    if spec.vision.made_for is None:
        return spec.config
    return with_changes(spec.config, vision_config=spec.vision.config)


def check_resizing(settings: Settings, size: Size) -> None:
    """Refuse another ``size`` where the image processor does not resize; raises `RequestError`."""
    if not settings.boolean("do_resize", True):
        raise RequestError(
            f"--image-size {_text(size)}: the image processor does not resize pictures "
            "(do_resize), so that a smaller one would be a part of each",
            advice="leave it out",
            setting="image_size",
        )


def resized_settings(stated: Mapping[str, Any], spec: VLMSpec) -> dict[str, Any]:
    """Return the settings of an image processor that follow from `VisionSpec.made_for`: the size of
    resized pictures, in proportion, the crop, and the tokens of a picture."""
    made_for = spec.vision.made_for
    if made_for is None:
        return {}
    height, width = spec.vision.tile_size
    changed: dict[str, Any] = {_COUNT: spec.vision.tokens} if _COUNT in stated else {}
    size = stated.get("size")
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        tall, wide = (
            size[name] * new // old
            for name, new, old in zip(("height", "width"), (height, width), made_for, strict=True)
        )
        changed["size"] = {"height": tall, "width": wide}
    elif isinstance(size, Mapping) and size.get("shortest_edge"):
        changed["size"] = {"shortest_edge": size["shortest_edge"] * height // made_for[0]}
    if stated.get("do_center_crop") and stated.get("crop_size"):
        changed["crop_size"] = {"height": height, "width": width}
    return changed


def resized_model(stated: Mapping[str, Any], spec: VLMSpec) -> dict[str, Any]:
    """Return config.json with what follows from `VisionSpec.made_for`, of the checkpoint's."""
    if spec.vision.made_for is None:
        return dict(stated)
    edges = spec.config.vision_config.image_size
    tower = {**stated.get("vision_config", {}), "image_size": edges}
    counted = {_COUNT: spec.vision.tokens} if _COUNT in stated else {}
    return {**stated, **counted, "vision_config": tower}


def _not_one_size(spec: VLMSpec, size: Size) -> RequestError:
    caps = sorted(spec.family.caps - {"max_tiles"}, reverse=True)
    others = " or ".join(f"--{name.replace('_', '-')}" for name in caps)
    return RequestError(
        f"--image-size {_text(size)} does not apply to {spec.family.model_type} checkpoints, whose "
        "pictures keep about their own size",
        advice=f"give {others}" if others else "leave it out",
        setting="image_size",
    )


def _refusal(size: Size, expected: str, advice: str = "") -> RequestError:
    return RequestError(
        f"--image-size {_text(size)}", expected=expected, advice=advice, setting="image_size"
    )


def _text(size: Size) -> str:
    return "x".join(map(str, size))


def _is_within(size: Size, own: Size) -> bool:
    return all(
        _LEAST * edge <= 4 * wanted <= _MOST * edge for wanted, edge in zip(size, own, strict=True)
    )


def _bounds(own: Size, unit: int, quarters: int) -> Size:
    """The smallest or largest whole tokens within the bounds."""
    height, width = (
        _up(edge * quarters / 4, unit) if quarters < 4 else edge * quarters // 4 // unit * unit
        for edge in own
    )
    return height, width


def _up(pixels: float, unit: int) -> int:
    return int(-(-pixels // unit)) * unit


def _whole(pixels: float, unit: int) -> int:
    return max(1, round(pixels / unit)) * unit
