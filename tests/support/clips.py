"""Small clips written with PyAV, of frames that can be told apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np


def numbered(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames uint8 (height, width, 3) of noise, whose first sample is their number."""
    frames = np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = np.arange(count)
    return list(frames)


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "ffv1",
    pixels: str = "bgr0",
    audio: bool = False,
    **options: Any,
) -> Path:
    """Write frames of one size at 10 a second, losslessly unless told otherwise; ``options`` are
    the container's."""
    with av.open(
        str(path), "w", options={name: str(value) for name, value in options.items()}
    ) as container:
        if frames:
            video = container.add_stream(codec, rate=10)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = pixels
        if audio:
            write_silence(container)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if frames:
            container.mux(video.encode())
    return path


def write_silence(container: Any, samples: int = 8000) -> None:
    stream = container.add_stream("aac", rate=8000)
    frame = av.AudioFrame.from_ndarray(
        np.zeros((1, samples), np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
