"""Knows how the features of pictures are kept, so that none is encoded twice: in memory, and in a
folder on request."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import stat
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from pocketvlm.errors import RequestError, library_errors
from pocketvlm.files import private_folder, remove_abandoned, replace_private
from pocketvlm.limits import FeatureLimits
from pocketvlm.vision.feature_source import FeatureSource
from pocketvlm.vision.features import VisionFeatures

_log = logging.getLogger(__name__)
# Not safetensors' own ending alone: the oldest of these are deleted where they take too much room.
_SUFFIX = ".features.safetensors"
_DIGEST = "sha256"  # its key in the metadata
_EXTRA = "extras."  # before the name of a further output
_MAX_HEADER = 4096  # bytes; three tensors and their checksum take about 400, an extra one 130


def picture_key(pixel_values: npt.NDArray[np.float32]) -> str:
    """SHA-256 (hex) of a picture's pixel_values and their shape, so that the same content from any
    file is the same picture."""
    digest = hashlib.sha256(repr(pixel_values.shape).encode())
    digest.update(np.ascontiguousarray(pixel_values).data)
    return digest.hexdigest()


class FeatureCache:
    """Features of pictures at the whole budget of their graph, by `picture_key`; smaller budgets
    are cut from them.

    On disk each picture is a safetensors file with the tensors of `_expected`, and the SHA-256 of
    their bytes in its metadata. Reading one takes memory for what this graph gives and no more, and
    runs no code. A damaged or foreign file is as good as none and is written again. Whoever can
    write to the folder decides which features a picture has.

    Args:
        source: what makes the features.
        limits: see `FeatureLimits`.
        folder: keep them here too, for other processes; made if need be. Several may use it at
            once. Features tell of the pictures: whatever the umask, only the owner may read the
            files, and enter a folder that is made here.

    Raises:
        RequestError: the folder cannot be made.
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
                private_folder(folder)
            except OSError as error:
                raise RequestError(
                    f"no features can be kept in {folder} ({error.strerror})",
                    advice="name a folder",
                    setting="feature_cache",
                ) from error

    def get(self, key: str, tiles: int = 1, tokens: int | None = None) -> VisionFeatures | None:
        """The features of one picture of so many tiles, (tiles, k, hidden) and so on, or None.

        ``tokens`` are those of each tile before pruning, where they may be fewer than the graph
        keeps.
        """
        features = self._kept.pop(key, None) or self._read(key, tiles, tokens)
        if features is not None:
            self._remember(key, features)
        return features

    def holds(self, keys: Sequence[str]) -> bool:
        """Whether the features of all of them are in memory now."""
        return all(key in self._kept for key in keys)

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

    def _expected(
        self, tiles: int, tokens: int | None
    ) -> dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]:
        """dtype and shape of each tensor that a file holds, by name."""
        k = self._source.tokens if tokens is None else min(self._source.tokens, tokens)
        features = (np.dtype(np.float32), (tiles, k, self._source.hidden))
        return {
            "image_features": features,
            "kept_indices": (np.dtype(np.int64), (tiles, k)),
            "kept_scores": (np.dtype(np.float32), (tiles, k)),
            **{_EXTRA + name: features for name in self._source.extras},
        }

    def _read(self, key: str, tiles: int, tokens: int | None) -> VisionFeatures | None:
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        try:
            tensors = _tensors(path, self._expected(tiles, tokens))
            os.utime(path)  # used now
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.debug("%s cannot be used and is made again: %s", path, error)
            return None
        extras = {name: tensors.pop(_EXTRA + name) for name in self._source.extras}
        complete = tensors["kept_indices"].shape[1] < self._source.tokens
        return VisionFeatures(
            **tensors, nested=self._source.nested, extras=extras, complete=complete
        )

    def _write(self, key: str, features: VisionFeatures) -> None:
        """A full or read-only disk is not a reason to refuse an answer."""
        if self._folder is None:
            return
        given = {
            "image_features": features.image_features,
            "kept_indices": features.kept_indices,
            "kept_scores": features.kept_scores,
            **{_EXTRA + name: extra for name, extra in features.extras.items()},
        }
        tensors = {
            name: np.ascontiguousarray(given[name], dtype=dtype)
            for name, (dtype, _) in self._expected(1, None).items()
        }
        content = safetensors.numpy.save(tensors, {_DIGEST: _digest(tensors)})
        try:
            replace_private(self._path(self._folder, key), content)
            self._trim(self._folder)
        except OSError as error:
            _log.debug("features are not kept: %s", error)

    def _trim(self, folder: Path) -> None:
        """Delete those used longest ago until the rest is within the limit, whichever artifact they
        are of."""
        # Of any picture: nobody may ever ask for that of a process that was killed again.
        for left in remove_abandoned(folder.glob(f".*{_SUFFIX}.*.tmp")):
            _log.debug("%s was left by a process that was killed, and is removed", left)
        files = sorted((info.st_mtime_ns, info.st_size, path) for path, info in _files(folder))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self._limits.disk_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _tensors(
    path: Path, expected: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]
) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file; raises ValueError for any but the ``expected`` ones, as they were
    written, and OSError."""
    size = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in expected.values())
    info = path.stat()
    if not stat.S_ISREG(info.st_mode) or not size < info.st_size <= size + _MAX_HEADER:
        raise ValueError(f"{info.st_size} bytes for {size} of tensors")
    with path.open("rb") as stream:
        content = stream.read(size + _MAX_HEADER)
    with library_errors(lambda reason: ValueError(f"no safetensors file ({reason})")):
        # Parses and checks the header first: its length, and that tensors fill the rest exactly.
        # Of types that numpy lacks it raises what it happens to meet.
        tensors = safetensors.numpy.load(content)
    if {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} != expected:
        raise ValueError("other tensors than this graph gives")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if (header.get("__metadata__") or {}).get(_DIGEST) != _digest(tensors):
        raise ValueError(f"another {_DIGEST} than its tensors have")
    return tensors


def _digest(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 (hex) of the tensors' bytes, little-endian as in the file, one after the other in the
    order of their names."""
    digest = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        return [
            (Path(e.path), e.stat()) for e in entries if e.name.endswith(_SUFFIX) and e.is_file()
        ]


def _bytes(features: VisionFeatures) -> int:
    kept = features.kept_indices.nbytes + features.kept_scores.nbytes
    extras = sum(extra.nbytes for extra in features.extras.values())
    return features.image_features.nbytes + kept + extras
