"""Picture files written chunk by chunk, so that a test says what is in them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def photograph(width: int = 36, height: int = 24) -> Image.Image:
    """A small RGB image without symmetry."""
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    """The bytes of a file as Pillow writes it."""
    stream = io.BytesIO()
    image.save(stream, format=fmt, **options)
    return stream.getvalue()


def jpeg_with(image: Image.Image, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG file with further segments (second byte of the marker, content) at its beginning."""
    data = encoded(image, "JPEG")
    packed = (struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + b"".join(packed) + data[2:]


def png_with(
    image: Image.Image, *chunks: tuple[bytes, bytes], last: bool = False, checksum: bool = True
) -> bytes:
    """A PNG file with further chunks behind its header, or ``last`` behind its pixels."""
    data = encoded(image, "PNG")
    at = len(data) - 12 if last else len(_SIGNATURE) + 25
    packed = b"".join(png_chunk(kind, body, checksum=checksum) for kind, body in chunks)
    return data[:at] + packed + data[at:]


def png_chunk(kind: bytes, body: bytes, *, checksum: bool = True) -> bytes:
    """A chunk of a PNG file, with the wrong checksum where it is not wanted."""
    crc = zlib.crc32(kind + body) ^ (not checksum)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png_of_samples(
    samples: np.ndarray, depth: int, colours: int, *, key: bytes = b"", palette: bytes = b""
) -> bytes:
    """A PNG file of any depth and kind.

    Args:
        samples: whole numbers (height, width, channels) below 2 ** depth.
        depth: bits per sample.
        colours: PNG's colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        key: content of tRNS; empty is none.
        palette: content of PLTE.
    """
    height, width, channels = samples.shape
    bits = (samples.reshape(height, width * channels, 1) >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"tRNS", key)] if key else []
    chunks += [(b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(png_chunk(kind, content) for kind, content in chunks)


def large_png(
    width: int, height: int, colours: int, *, depth: int = 8, chunks: bytes = b""
) -> bytes:
    """A PNG file of zeros, written without holding them; ``chunks`` come before its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    compressor, row = zlib.compressobj(1), bytes(1 + width * channels * depth // 8)
    body = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    head = _SIGNATURE + png_chunk(b"IHDR", header) + chunks
    return head + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG file whose last scan comes ``scans`` times more."""
    data = encoded(Image.new("L", (width, height), 100), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]
