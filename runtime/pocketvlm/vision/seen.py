"""Knows pictures by the content of their files, so that one that was encoded before is not even
decoded again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from pocketvlm.layouts import Layout, TileGrid

_MOST = 256  # pictures, of each a hundred bytes


@dataclass(frozen=True)
class SeenPicture:
    """What is known of a picture that was encoded.

    Attributes:
        grid: how it was cut into tiles.
        keys: of its features in the cache, see `pocketvlm.vision.feature_cache.picture_key`.
        reduced: whether it was read at a fraction of its size.
    """

    grid: TileGrid
    keys: tuple[str, ...]
    reduced: bool


class SeenPictures:
    """The pictures that one viewer encoded last, by the SHA-256 of their files and their layout.

    A file's content decides, not its name. Pictures that come as arrays or PIL images are not
    noted: there is nothing to decode.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, bool], SeenPicture] = OrderedDict()

    def get(self, identity: str, layout: Layout[Any], *, alone: bool) -> SeenPicture | None:
        """What is known of the picture with that SHA-256 (hex) in a layout, or None.

        ``alone`` says whether that is the layout of an only picture, see `Layout.several`.
        """
        return self._seen.get((identity, layout.name, alone))

    def note(
        self, identity: str, layout: Layout[Any], picture: SeenPicture, *, alone: bool
    ) -> None:
        """Remember a picture that was encoded, see `get`."""
        key = (identity, layout.name, alone)
        self._seen[key] = picture
        self._seen.move_to_end(key)
        while len(self._seen) > _MOST:
            self._seen.popitem(last=False)
