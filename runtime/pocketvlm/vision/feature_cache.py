"""Knows how the features of pictures are kept, so that none is encoded twice: in memory, and in a
folder if asked."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import RequestError
from pocketvlm.files import replace_file
from pocketvlm.limits import FeatureLimits
from pocketvlm.vision.features import VisionFeatures

_log = logging.getLogger(__name__)
_MAGIC = b"PVLMFEAT1\n"
_SUFFIX = ".features"


@dataclass(frozen=True)
class FeatureSource:
    """What makes the features, and their shape: a cache never mixes those of two graphs.

    Attributes:
        name: the artifact and its vision graph, as part of a file name.
        tokens: k, the tokens of a tile.
        hidden: the width of a token.
        nested: see `VisionFeatures`.
    """

    name: str
    tokens: int
    hidden: int
    nested: bool


def picture_key(pixel_values: npt.NDArray[np.float32]) -> str:
    """What a picture is known by: SHA-256 (hex) of its pixel_values, so the same content from any
    file is the same."""
    return hashlib.sha256(pixel_values.tobytes()).hexdigest()


class FeatureCache:
    """Features of pictures at the whole budget of their graph, by `picture_key`; smaller budgets
    are cut from them.

    A file holds a checksum, then the arrays as they are: reading one allocates what its size says
    and runs no code. A damaged file is as good as none and is written again. Whoever can write to
    the folder decides what is seen.

    Args:
        source: what makes the features.
        limits: see `FeatureLimits`.
        folder: keep them here too, for other processes; made if need be. Several may use it at
            once.

    Raises:
        PocketVLMError: the folder cannot be made.
    """

    def __init__(
        self, source: FeatureSource, limits: FeatureLimits | None = None, folder: Path | None = None
    ) -> None:
        self._source = source
        self._limits = limits or FeatureLimits()
        self._folder = folder
        self._kept: OrderedDict[str, VisionFeatures] = OrderedDict()  # used longest ago first
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RequestError(
                    f"no features can be kept in {folder} ({error.strerror})",
                    advice="name a folder",
                ) from error

    def get(self, key: str, tiles: int = 1) -> VisionFeatures | None:
        """The features of one picture of so many tiles, (tiles, k, hidden) and so on, or None."""
        features = self._kept.pop(key, None) or self._read(key, tiles)
        if features is not None:
            self._remember(key, features)
        return features

    def put(self, key: str, features: VisionFeatures) -> None:
        """Keep the features of one picture."""
        self._remember(key, features)
        self._write(key, features)

    def _remember(self, key: str, features: VisionFeatures) -> None:
        self._kept[key] = features
        self._kept.move_to_end(key)
        while sum(map(_bytes, self._kept.values())) > self._limits.memory_bytes:
            self._kept.popitem(last=False)

    def _path(self, folder: Path, key: str) -> Path:
        return folder / f"{self._source.name}-{key}{_SUFFIX}"

    def _read(self, key: str, tiles: int) -> VisionFeatures | None:
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        k, hidden = self._source.tokens, self._source.hidden
        rows = tiles * k
        try:
            with path.open("rb") as stream:
                data = stream.read(len(_MAGIC) + 32 + rows * (4 * hidden + 12) + 1)
            os.utime(path)  # used now
        except OSError as error:
            _log.debug("no kept features: %s", error)
            return None
        digest, body = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
        sound = data.startswith(_MAGIC) and len(body) == rows * (4 * hidden + 12)
        if not sound or hashlib.sha256(body).digest() != digest:
            _log.debug("%s is damaged and is made again", path)
            return None
        features, rest = body[: 4 * rows * hidden], body[4 * rows * hidden :]
        return VisionFeatures(
            np.frombuffer(features, "<f4").reshape(tiles, k, hidden),
            np.frombuffer(rest[: 8 * rows], "<i8").reshape(tiles, k),
            np.frombuffer(rest[8 * rows :], "<f4").reshape(tiles, k),
            nested=self._source.nested,
        )

    def _write(self, key: str, features: VisionFeatures) -> None:
        """A full or read-only disk is no reason to refuse an answer."""
        if self._folder is None:
            return
        parts = [
            (features.image_features, "<f4"),
            (features.kept_indices, "<i8"),
            (features.kept_scores, "<f4"),
        ]
        body = b"".join(np.ascontiguousarray(array, dtype=kind).tobytes() for array, kind in parts)
        try:
            replace_file(
                self._path(self._folder, key), _MAGIC + hashlib.sha256(body).digest() + body
            )
            self._trim(self._folder)
        except OSError as error:
            _log.debug("features are not kept: %s", error)

    def _trim(self, folder: Path) -> None:
        """Delete those used longest ago until the rest is within the limit, whichever artifact they
        are of."""
        found = sorted((info.st_mtime_ns, info.st_size, path) for path, info in _files(folder))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self._limits.disk_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        return [
            (Path(e.path), e.stat()) for e in entries if e.name.endswith(_SUFFIX) and e.is_file()
        ]


def _bytes(features: VisionFeatures) -> int:
    return (
        features.image_features.nbytes + features.kept_indices.nbytes + features.kept_scores.nbytes
    )
