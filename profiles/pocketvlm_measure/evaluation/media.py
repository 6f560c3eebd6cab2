"""Knows the pictures and clips of a question: where they come from, how they are opened once for
all answers, and whether they are still the same."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from pocketvlm.errors import PictureError, PocketVLMError
from pocketvlm.files import user_path
from pocketvlm.layouts import Layout, Medium
from pocketvlm.media.sources import open_regular
from pocketvlm.text.messages import check_media
from pocketvlm.vision.viewer import open_medium

DATA = "data:"
_ENDS = 1 << 16  # bytes of a file's beginning and of its end that its fingerprint reads
_EXAMPLES: Mapping[Medium, str] = {
    "image": "data:image/png;base64,...",
    "video": "data:video/mp4;base64,...",
}


@dataclass(frozen=True)
class Opened:
    """What a question shows, decoded: RGB images, and clips as the frames that the model takes."""

    images: list[Image.Image] = field(default_factory=list)
    videos: list[Sequence[Image.Image]] = field(default_factory=list)


def open_media(
    layouts: Mapping[Medium, Layout[Any]], images: Sequence[str], videos: Sequence[str]
) -> Opened:
    """Open the pictures and clips of a question.

    Args:
        layouts: of the artifact, see `pocketvlm.layouts.open_layouts`.
        images: references to pictures, see `source_of`.
        videos: references to clips.

    Raises:
        PocketVLMError: one that is refused, or of a kind that the artifact does not read.
    """
    check_media(layouts, pictures=bool(images), clips=bool(videos))
    return Opened(
        [open_medium(layouts["image"], source_of(image)) for image in images],
        [open_medium(layouts["video"], source_of(video, "video")) for video in videos],
    )


def source_of(reference: str, medium: Medium = "image") -> Path | bytes:
    """The path, or the bytes, of a picture or clip in a question; raises `PocketVLMError` for a
    damaged data URI."""
    if not reference.startswith(DATA):
        return user_path(reference)
    head, comma, body = reference.partition(",")
    if not comma or not head.endswith(";base64"):
        raise PictureError(
            f"{reference[:40]} is not a data URI in base64", expected=_EXAMPLES[medium]
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(
            f"the data URI {reference[:40]}... is damaged ({error})", advice="write it again"
        ) from error


def fingerprint(references: Sequence[str]) -> str:
    """SHA-256 (hex) of what files hold, by their sizes and their first and last 64 KiB; empty where
    there is no file, or one that cannot be read.

    A clip may have a gigabyte, and is looked at whenever a run continues. What is in the set
    itself, as a data URI, the set's own checksum counts.
    """
    digest, files = hashlib.sha256(), 0
    for reference in references:
        if reference.startswith(DATA):
            continue
        try:
            stream, size = open_regular(reference, "file")
            with stream:
                digest.update(size.to_bytes(8, "little"))
                digest.update(stream.read(_ENDS))
                stream.seek(max(stream.tell(), size - _ENDS), os.SEEK_SET)
                digest.update(stream.read(_ENDS))
        except (PocketVLMError, OSError):
            return ""
        files += 1
    return digest.hexdigest() if files else ""
