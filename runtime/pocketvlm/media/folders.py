"""Knows which files of a folder are pictures, by how their names end."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pocketvlm.media.costs import COMMON, RARE


def pictures_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder and its other files, each in the order of their names.

    Folders in it are not entered, and hidden files are left out. A name says nothing of the
    content: what a file holds shows when it is opened.

    Raises:
        OSError: the folder cannot be read.
    """
    formats, readable = Image.registered_extensions(), {*COMMON, *RARE}
    pictures: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        is_picture = formats.get(path.suffix.lower()) in readable
        (pictures if is_picture else others).append(path)
    return pictures, others
