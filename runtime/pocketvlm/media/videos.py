"""Knows how a clip becomes a few upright RGB frames, and what is refused before and while it is
decoded."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import PictureError
from pocketvlm.limits import PictureLimits, VideoLimits
from pocketvlm.media.extents import ends_early, samples_stated
from pocketvlm.media.pictures import decoder_errors, open_picture
from pocketvlm.media.sources import open_regular

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

Frame = Image.Image | npt.NDArray[np.uint8]
Video = str | os.PathLike[str] | bytes | Sequence[Frame]

# Files that hold their own pictures: playlists and their like would make FFmpeg open other files or
# addresses.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,gif"
_ADVICE = "give a whole MP4, WebM, MKV, AVI or MPEG-TS file"
_MOST_SAMPLES = 2_000_000  # in the tables of MP4; FFmpeg takes some 70 bytes for each
_OTHER_PACKETS = 20  # of sound and text, for each frame that a clip may have


def open_video(video: Video, count: int, limits: VideoLimits | None = None) -> list[Image.Image]:
    """Read ``count`` frames of a clip, evenly spaced from its first to its last, as upright RGB
    images in time order.

    Of n decoded frames, counted from 0, these are numbers ``np.linspace(0, n - 1, count)`` cut to
    integers, as Video-LLaVA's own code takes them; of a shorter clip some come twice. The whole
    clip is decoded, since a header does not reliably tell where frames are, but no other frame is
    kept. A rotation stated in the file is applied.

    Args:
        video: a path, the bytes of a file, or frames decoded already, PIL images or uint8 (height,
            width, 3), in time order.
        count: frames to take, at least 1.
        limits: None takes the defaults of `VideoLimits`.

    Raises:
        PictureError: no PyAV, no such file, a pipe, beyond a limit, empty, damaged, cut off (as far
            as its structure or its decoder tells: see `pocketvlm.media.extents`), or without
            pictures. It names the file. Whatever FFmpeg raises becomes one.
    """
    limits = limits or VideoLimits()
    if isinstance(video, (list, tuple)):
        return _of_frames(video, count, limits)
    name = "the video" if isinstance(video, bytes) else _path(video)
    library = _library()
    with _source(video, name, limits) as source, _decoding(name):
        if ends_early(source):
            raise PictureError(f"{name} is truncated", advice=_ADVICE)
        if samples_stated(source) > _MOST_SAMPLES:
            raise PictureError(
                f"{name} states more than {_MOST_SAMPLES} frames and pieces of sound",
                advice="give a shorter clip",
            )
        clip = _Clip(library, source, name, limits, time.monotonic() + limits.max_seconds)
        expected = clip.survey()
        frames, decoded = clip.take(count, expected)
        if decoded != expected:  # some packets hold no picture, or two
            frames, decoded = clip.take(count, decoded)
    if not decoded:
        raise PictureError(f"{name} has no frame that can be decoded", advice=_ADVICE)
    return frames


@dataclass(frozen=True)
class _Clip:
    """A file whose header has been checked, to be decoded until ``deadline``, a `time.monotonic`
    reading."""

    library: Any
    source: BinaryIO
    name: str
    limits: VideoLimits
    deadline: float

    def survey(self) -> int:
        """The number of its packets, about as many as frames, without decoding them."""
        frames = others = 0
        with _open(self.library, self.source, self.limits) as container:
            stream = _stream(container, self.name, self.limits)
            for packet in container.demux():
                self._check_time()
                if not packet.size:  # the sign that a stream has ended
                    continue
                ours = packet.stream_index == stream.index
                if packet.is_corrupt and ours:
                    raise PictureError(
                        f"{self.name} is damaged or truncated at frame {frames}", advice=_ADVICE
                    )
                frames, others = frames + ours, others + (not ours)
                _check_count(max(frames, others // _OTHER_PACKETS), self.name, self.limits)
        return frames

    def take(self, count: int, expected: int) -> tuple[list[Image.Image], int]:
        """``count`` frames of ``expected``, as far as the clip has them, and how many it has."""
        numbers = _frame_numbers(count, expected)
        kept: dict[int, Image.Image] = {}
        decoded = room = 0
        with _open(self.library, self.source, self.limits) as container:
            stream = _stream(container, self.name, self.limits)
            for frame in container.decode(stream):
                if decoded in numbers:
                    room += 4 * _pixels(frame.width, frame.height, self.name, self.limits)
                    self._check_room(room, count)
                    kept[decoded] = _upright(frame, self.name)
                decoded += 1
                _check_count(decoded, self.name, self.limits)
                self._check_time()
        return [kept[number] for number in numbers if number in kept], decoded

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise PictureError(
                f"{self.name} takes more than {self.limits.max_seconds:g} seconds to decode, the "
                "limit",
                advice="give a shorter or smaller clip",
            )

    def _check_room(self, room: int, count: int) -> None:
        if room > self.limits.max_memory:
            raise PictureError(
                f"{count} frames of {self.name} take more than {self.limits.max_memory / 1e6:.0f} "
                "MB, the limit",
                advice="scale it down",
            )


def _frame_numbers(count: int, of: int) -> list[int]:
    """``count`` frames of ``of``, counted from 0, evenly spaced from the first to the last."""
    numbers: list[int] = np.linspace(0, max(of - 1, 0), count, dtype=int).tolist()
    return numbers


def _of_frames(frames: Sequence[Frame], count: int, limits: VideoLimits) -> list[Image.Image]:
    if not frames:
        raise PictureError("the video is a list without frames", advice="give at least one")
    pixels = PictureLimits(max_pixels=limits.max_pixels)
    return [open_picture(frames[number], pixels) for number in _frame_numbers(count, len(frames))]


def _library() -> Any:
    try:
        import av
    except ImportError as error:  # also where a library that it needs is missing
        raise PictureError(
            f"videos are decoded by PyAV, which cannot be used ({error})",
            advice="pip install 'pocketvlm[video]'",
        ) from error
    return av


def _path(video: Any) -> str:
    if not isinstance(video, (str, os.PathLike)):
        raise PictureError(
            f"a clip is of type {type(video).__name__}",
            expected="a path, the bytes of a file or a list of frames",
        )
    return os.fspath(video)


@contextmanager
def _source(video: Any, name: str, limits: VideoLimits) -> Iterator[BinaryIO]:
    """The bytes, opened here: FFmpeg would take some names for addresses or devices."""
    if isinstance(video, bytes):
        _check_size(len(video), name, limits)
        yield io.BytesIO(video)
        return
    stream, size = open_regular(name, "video")
    with stream:
        _check_size(size, name, limits)
        yield stream


def _check_size(size: int, name: str, limits: VideoLimits) -> None:
    if not size:
        raise PictureError(f"{name} is empty", advice="give a video file")
    if size > limits.max_bytes:
        raise PictureError(
            f"{name} has {size} bytes, the limit is {limits.max_bytes}",
            advice="give a shorter clip",
        )


def _decoding(name: str) -> AbstractContextManager[None]:
    """Turns whatever FFmpeg and PyAV raise on damaged bytes into a `PictureError`."""
    return decoder_errors(
        name,
        lambda reason: PictureError(
            f"{name} is not a video that this can read, or is damaged or truncated ({reason})",
            advice=_ADVICE,
        ),
    )


@contextmanager
def _open(library: Any, source: BinaryIO, limits: VideoLimits) -> Iterator[InputContainer]:
    """The file from its beginning; the limit on pixels holds for what FFmpeg decodes to find out
    what it is, too."""
    source.seek(0)
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "",
        "max_pixels": str(limits.max_pixels),
    }
    with library.open(source, options=options) as container:
        yield container


def _stream(container: InputContainer, name: str, limits: VideoLimits) -> VideoStream:
    """The first stream of pictures that is not an album's cover, ready to be decoded."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise PictureError(f"{name} has no moving pictures in it, only {kinds}", advice=_ADVICE)
    context = streams[0].codec_context
    _pixels(context.width, context.height, name, limits)
    context.options = {
        "max_pixels": str(limits.max_pixels)
    }  # which the stream itself may change on its way
    context.thread_type = "AUTO"
    return streams[0]


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _pixels(width: int, height: int, name: str, limits: VideoLimits) -> int:
    """Of a frame; raises `PictureError` beyond the limit."""
    if width * height > limits.max_pixels:
        raise PictureError(
            f"{name} has frames of {width}x{height} pixels, the limit is {limits.max_pixels}",
            advice="scale it down",
        )
    return width * height


def _check_count(frames: int, name: str, limits: VideoLimits) -> None:
    if frames > limits.max_frames:
        raise PictureError(
            f"{name} has more than {limits.max_frames} frames, the limit",
            advice="give a shorter clip",
        )


def _upright(frame: av.VideoFrame, name: str) -> Image.Image:
    """The frame turned as its file asks; quarter turns are exact."""
    if frame.is_corrupt:
        raise PictureError(f"{name} has a damaged frame", advice=_ADVICE)
    image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turned = round(frame.rotation) % 360  # degrees counter-clockwise
    turns = {
        90: Image.Transpose.ROTATE_90,
        180: Image.Transpose.ROTATE_180,
        270: Image.Transpose.ROTATE_270,
    }
    return image.transpose(turns[turned]) if turned in turns else image
