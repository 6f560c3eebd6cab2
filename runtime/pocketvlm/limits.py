"""Knows how much of anything is accepted or kept: pictures, clips, features, idle conversations;
and what counts as a number of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from pocketvlm.errors import RequestError


@dataclass(frozen=True)
class PictureLimits:
    """What is refused before a picture is decoded.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width times height.
        max_side: width, and height; as many as a JPEG file can have.
        max_memory: bytes that reading a picture may take beside its file: decoding it, converting
            it, turning it upright. By default 6 for each pixel that is allowed. Above 36 megapixels
            a picture that would take more is read at a half, a quarter or an eighth of its size
            where that helps, and the answer says so.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000
    max_side: int = 65_535
    max_memory: int = 600_000_000


@dataclass(frozen=True)
class VideoLimits:
    """What is refused before and while a clip is decoded.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width times height of a frame.
        max_frames: frames in the file, whether they are taken or not.
        max_seconds: how long reading it may take.
        max_memory: bytes that the frames may take that are kept, 4 a pixel.
    """

    max_bytes: int = 1 << 30
    max_pixels: int = 36_000_000
    max_frames: int = 100_000
    max_seconds: float = 300.0
    max_memory: int = 1_200_000_000


@dataclass(frozen=True)
class FeatureLimits:
    """Features of pictures that are kept; beyond a limit those not used for longest go first.

    Attributes:
        memory_bytes: in memory.
        disk_bytes: in the folder of the feature cache, where there is one.
    """

    memory_bytes: int = 64 << 20
    disk_bytes: int = 1 << 30


@dataclass(frozen=True)
class SequenceLimits:
    """Keys and values that a model's sequences keep, so that they need not be computed again.

    Beyond the limit, conversations that wait for their next question lose theirs, those unused for
    longest first: their next answer costs a longer prefill and is the same. Sequences that are
    being answered are always allowed, and so is that of the conversation answered last.

    Attributes:
        memory_bytes: keys and values of all sequences together.
    """

    memory_bytes: int = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Every limit of a loaded model; each part has defaults of its own.

    >>> Limits(pictures=PictureLimits(max_bytes=8 << 20)).videos == VideoLimits()
    True

    Attributes:
        pictures: see `PictureLimits`.
        videos: see `VideoLimits`.
        features: see `FeatureLimits`.
        sequences: see `SequenceLimits`.
    """

    pictures: PictureLimits = field(default_factory=PictureLimits)
    videos: VideoLimits = field(default_factory=VideoLimits)
    features: FeatureLimits = field(default_factory=FeatureLimits)
    sequences: SequenceLimits = field(default_factory=SequenceLimits)


def is_int(value: Any, least: int | None = None) -> bool:
    """Whether it is a whole number, and at least ``least`` where that is given.

    numpy's are, True and text are not.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and (least is None or bool(value >= least))


def check_int(value: Any, setting: str) -> None:
    """Raise `RequestError` where the value of a setting is no whole number, whatever its size."""
    if not is_int(value):
        raise RequestError(
            f"{setting} is of type {type(value).__name__}",
            expected="a whole number",
            setting=setting,
        )
