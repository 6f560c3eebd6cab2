"""Knows how a clip becomes a few upright RGB frames, and what is refused before and while it is
decoded."""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.errors import PictureError
from pocketvlm.files import user_path
from pocketvlm.limits import PictureLimits, VideoLimits
from pocketvlm.media.pictures import open_picture

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
_TRUNCATED = (
    0.9  # of the length that the header states: streams of a whole file may end a little earlier
)


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
        PocketVLMError: no PyAV, no such file, a pipe, beyond a limit, empty, damaged, truncated as
            far as its header tells (MPEG-TS and GIF do not), or without pictures; it names the
            file.
    """
    limits = limits or VideoLimits()
    if isinstance(video, (list, tuple)):
        return _of_frames(video, count, limits)
    name = "the video" if isinstance(video, bytes) else _path(video)
    library = _library()
    with _source(video, name, limits) as source, _decoding(name, library):
        with _open(library, source, limits) as container:
            stream = _stream(container, name, limits)
            expected = _survey(container, stream, name, limits)
        clip = _Clip(library, source, name, limits, time.monotonic() + limits.max_seconds)
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

    def take(self, count: int, expected: int) -> tuple[list[Image.Image], int]:
        """``count`` frames of ``expected``, as far as the clip has them, and how many it has."""
        numbers = _frame_numbers(count, expected)
        kept: dict[int, Image.Image] = {}
        decoded = 0
        with _open(self.library, self.source, self.limits) as container:
            stream = _stream(container, self.name, self.limits)
            for frame in container.decode(stream):
                if decoded in numbers:
                    kept[decoded] = _upright(frame, self.name)
                decoded += 1
                _check_count(decoded, self.name, self.limits)
                if time.monotonic() > self.deadline:
                    raise PictureError(
                        f"{self.name} takes more than {self.limits.max_seconds:g} seconds to "
                        "decode, the limit",
                        advice="give a shorter or smaller clip",
                    )
        return [kept[number] for number in numbers if number in kept], decoded


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
    return str(user_path(video))


@contextmanager
def _source(video: Any, name: str, limits: VideoLimits) -> Iterator[BinaryIO]:
    """The bytes, opened here: FFmpeg would take some names for addresses or devices."""
    if isinstance(video, bytes):
        _check_size(len(video), name, limits)
        yield io.BytesIO(video)
        return
    try:
        info = Path(name).stat()
        if not stat.S_ISREG(info.st_mode):
            raise PictureError(
                f"{name} is no file but a folder, pipe or device",
                advice="record it into a file first",
            )
        _check_size(info.st_size, name, limits)
        opened = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise PictureError(
            f"video {name} cannot be read ({reason})", advice="give the path of a video file"
        ) from error
    with os.fdopen(opened, "rb") as stream:
        yield stream


def _check_size(size: int, name: str, limits: VideoLimits) -> None:
    if not size:
        raise PictureError(f"{name} is empty", advice="give a video file")
    if size > limits.max_bytes:
        raise PictureError(
            f"{name} has {size} bytes, the limit is {limits.max_bytes}",
            advice="give a shorter clip",
        )


@contextmanager
def _decoding(name: str, library: Any) -> Iterator[None]:
    """Turns FFmpeg's exceptions on damaged bytes into a `PictureError`."""
    try:
        yield
    except (
        library.FFmpegError,
        ValueError,
        OverflowError,
        LookupError,
        EOFError,
        OSError,
        MemoryError,
    ) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise PictureError(
            f"{name} is no video that this can read, or is damaged or truncated ({reason})",
            advice=_ADVICE,
        ) from error


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
    """The first stream of pictures that is no cover of an album, ready to be decoded."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise PictureError(f"{name} has no moving pictures in it, only {kinds}", advice=_ADVICE)
    context = streams[0].codec_context
    if context.width * context.height > limits.max_pixels:
        raise PictureError(
            f"{name} has frames of {context.width}x{context.height} pixels, the limit is "
            f"{limits.max_pixels}",
            advice="scale it down",
        )
    context.options = {
        "max_pixels": str(limits.max_pixels)
    }  # which the stream itself may change on its way
    context.thread_type = "AUTO"
    return streams[0]


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _survey(container: InputContainer, stream: VideoStream, name: str, limits: VideoLimits) -> int:
    """The number of its packets, about as many as frames, without decoding them; refuses what ends
    too early."""
    frames, reached = 0, 0.0
    for packet in container.demux():
        if not packet.size:  # the sign that a stream has ended
            continue
        if packet.is_corrupt:
            raise PictureError(f"{name} is damaged or truncated at frame {frames}", advice=_ADVICE)
        if packet.pts is not None and packet.time_base is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        frames += packet.stream_index == stream.index
        _check_count(frames, name, limits)
    length = (container.duration or 0) / 1e6  # of the longest stream, in seconds
    reached -= (container.start_time or 0) / 1e6
    if reached < _TRUNCATED * length:
        raise PictureError(
            f"{name} is truncated: it ends after {reached:.3g} of the {length:.3g} seconds in its "
            "header",
            advice=_ADVICE,
        )
    return frames


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
