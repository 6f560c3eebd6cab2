"""Knows how much of anything is accepted or kept: pictures, clips, features, idle conversations;
and what counts as a number of it."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from pocketvlm.errors import RequestError

_MOST = (1 << 63) - 1
_PICTURE_MEMORY = 600_000_000


class _Checked:
    """A dataclass of limits: fields that are int hold whole numbers from 0, those that are float
    any from 0; raises `RequestError` for others."""

    def __post_init__(self) -> None:
        settle_numbers(self)
        for name, kind in ((each.name, each.type) for each in dataclasses.fields(self)):  # type: ignore[arg-type]
            if kind == "int":
                whole(getattr(self, name), name, least=0)
            elif kind == "float":
                real(getattr(self, name), name, least=0)


@dataclass(frozen=True)
class PictureLimits(_Checked):
    """What is refused before a picture is decoded.

    >>> from pocketvlm import VLM, Limits, PictureLimits
    >>> vlm = VLM.load("demo-vlm", limits=Limits(pictures=PictureLimits(max_pixels=1_000)))
    >>> vlm.generate("What is it?", images=["examples/scene-2.png"])
    Traceback (most recent call last):
    pocketvlm.errors.PictureError: examples/scene-2.png has over 2000 pixels, the limit is 1000: ...

    Attributes:
        max_bytes: size of the file.
        max_pixels: width times height.
        max_side: width, and height; by default the most that a JPEG file can have.
        max_memory: bytes that reading a picture may take beside its file: decoding, converting and
            turning it upright. None is 600 MB, or 6 bytes for each allowed pixel if that is more.
            Above 36 megapixels a picture that would exceed it is read at a half, a quarter or an
            eighth of its size. The answer then reports it.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 100_000_000
    max_side: int = 65_535
    max_memory: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_memory is not None:
            whole(self.max_memory, "max_memory", least=0)

    @property
    def memory_bytes(self) -> int:
        """``max_memory``, or its default."""
        if self.max_memory is not None:
            return self.max_memory
        return max(_PICTURE_MEMORY, 6 * self.max_pixels)


@dataclass(frozen=True)
class VideoLimits(_Checked):
    """What is refused before and while a clip is decoded.

    >>> from pocketvlm import Limits, VideoLimits
    >>> Limits(videos=VideoLimits(max_seconds=20)).videos.max_frames
    100000

    Attributes:
        max_bytes: size of the file.
        max_pixels: width times height of a frame.
        max_frames: frames in the file, used or not.
        max_seconds: how long reading it may take.
        max_memory: bytes of the kept frames, 4 per pixel.
    """

    max_bytes: int = 1 << 30
    max_pixels: int = 36_000_000
    max_frames: int = 100_000
    max_seconds: float = 300.0
    max_memory: int = 1_200_000_000


@dataclass(frozen=True)
class FeatureLimits(_Checked):
    """Features of pictures that are kept; beyond a limit the least recently used are dropped first.

    >>> from pocketvlm import VLM, FeatureLimits, Limits
    >>> few = Limits(features=FeatureLimits(memory_bytes=8 << 20, disk_bytes=64 << 20))
    >>> vlm = VLM.load("demo-vlm", limits=few, feature_cache="kept-features")

    Attributes:
        memory_bytes: in memory.
        disk_bytes: in the folder of the feature cache, where there is one.
    """

    memory_bytes: int = 64 << 20
    disk_bytes: int = 1 << 30


@dataclass(frozen=True)
class SequenceLimits(_Checked):
    """Keys and values that a model's sequences keep, so that they need not be computed again.

    >>> from pocketvlm import VLM, Limits, SequenceLimits
    >>> vlm = VLM.load("demo-vlm", limits=Limits(sequences=SequenceLimits(kept=1)))
    >>> first = vlm.generate("What is red?", images=["examples/scene-3.png"])
    >>> vlm.generate("How many objects are there?", images=["examples/scene-3.png"]).prompt_tokens
    {'total': 49, 'cached': 41}

    Each `Chat` keeps its own sequence. Of other questions the model keeps the latest ``kept``
    sequences. A new prompt continues from the one with the longest common beginning, or from a copy
    of it if a picture would be lost. Of too many sequences the least recently used is dropped;
    while two hold no picture, one of these.

    Beyond the limit of bytes, idle sequences lose theirs, the least recently used first, and their
    next answers cost a longer prefill. In float32 the answers are the same. int8 decoders measure
    the activations of each run, so logits differ a little by how a prompt was divided, unless
    the runs are fixed. Sequences in use are always allowed, and so is the one that answered last.

    Attributes:
        memory_bytes: keys and values of all sequences together.
        kept: sequences of questions outside of conversations; with 0 no prompt reuses another's.
        fixed_runs: whether a decoder that measures activations, as int8 ones do, prefills every
            prompt in the same runs, see `pocketvlm.decoders.prefix.run_ends`. A question then has
            the same logits, bit for bit, whatever was asked before it; a further turn still
            continues from what was decoded. A first question takes longer by a pass over the
            weights.
    """

    memory_bytes: int = 1 << 30
    kept: int = 4
    fixed_runs: bool = False


@dataclass(frozen=True)
class Limits:
    """Every limit of a loaded model; each part has defaults of its own.

    >>> from pocketvlm import Limits, PictureLimits, VideoLimits
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


def whole(value: Any, setting: str, least: int | None = None) -> int:
    """The whole number of a setting, numpy's too, as Python's own, which neither overflows nor is
    unknown to JSON. Raises `RequestError` for anything else, or for a number below ``least``."""
    if not is_int(value):
        raise RequestError(
            f"{setting} is of type {type(value).__name__}",
            expected="a whole number",
            setting=setting,
        )
    number = int(value)
    if not -_MOST <= number <= _MOST:  # Python does not even print the largest
        raise RequestError(f"{setting} is beyond 64 bits", expected="less", setting=setting)
    return int(_at_least(number, setting, least))


def real(value: Any, setting: str, least: float | None = None) -> float:
    """As `whole`, of a number that need not be whole, as a finite float."""
    number = plain(value)
    numeric = isinstance(number, int | float) and not isinstance(number, bool)
    if not numeric or not abs(number) <= sys.float_info.max:  # NaN is not
        given = f"{number}"[:40] if numeric else f"of type {type(value).__name__}"
        raise RequestError(f"{setting} is {given}", expected="a number", setting=setting)
    return float(_at_least(number, setting, least))


def plain(value: Any) -> Any:
    """A number of any library (`numbers.Integral` or `numbers.Real`) as an int or a float of
    Python's own, also within tuples and lists; everything else, and what no float can hold, as it
    is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:
            return value
    if type(value) in (tuple, list):
        return type(value)(map(plain, value))
    return value


def settle_numbers(instance: Any) -> None:
    """Make the numbers in a dataclass's fields Python's own, see `plain`; for ``__post_init__``,
    of frozen ones too."""
    for each in dataclasses.fields(instance):
        object.__setattr__(instance, each.name, plain(getattr(instance, each.name)))


def _at_least(number: float, setting: str, least: float | None) -> float:
    if least is not None and number < least:
        raise RequestError(f"{setting} is {number}", expected=f"at least {least}", setting=setting)
    return number


# No answer continues from what another has left of its prompt; each `Chat` continues from its own.
APART = Limits(sequences=SequenceLimits(kept=0))
# Every answer computes all that it needs, as the first one of a process: for measuring.
NOTHING_KEPT = Limits(
    features=FeatureLimits(memory_bytes=0), sequences=SequenceLimits(memory_bytes=0, kept=0)
)
