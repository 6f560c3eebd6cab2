"""Knows what a target is: it writes a damaged input into a folder, and uses it as the product does.

The two are apart so that what the product opens can be told from what the harness writes.
"""

import os
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import ClassVar

# Lie beside the box, outside of what an input may reach; a link in the box leads to the first.
SECRET = "secret.json"
LINK = "link.json"
SECRET_TEXT = '{"secret": 1}'
OUTSIDE = (
    f"../{SECRET}", "../../etc/passwd", "/etc/passwd", LINK, "..", ".", "/", "~/secret.json",
    f"onnx/../../{SECRET}", f"..\\{SECRET}", f"file://../{SECRET}",
)  # fmt: skip


class Target(ABC):
    """One kind of input.

    Attributes:
        threat: what somebody could want with such an input, in one sentence.
        memory_mb: how much more than before one input may take, in MB.
        headroom_mb: what the system grants beyond that, so that a fault is seen as one; 0 where
            memory is the system's to bound, and its refusal must become ours.
        refusals: errors beside `PocketVLMError` that are one line for people.
        links: whether a link in the folder that leads outside must not be followed.
        number: of the input that is written next.
    """

    threat: ClassVar[str]
    memory_mb: ClassVar[int] = 256
    headroom_mb: ClassVar[int] = 3000
    refusals: ClassVar[tuple[type[Exception], ...]] = ()
    links: ClassVar[bool] = True
    number: int = 0

    def prepare(self, folder: Path) -> None:  # noqa: B027 - most have something to make
        """Make what inputs are made of, once in a process; ``folder`` is empty, and stays."""

    @abstractmethod
    def write(self, random: Random, box: Path) -> None:
        """Write an input into ``box``, an empty folder; the same one for the same ``random``."""

    @abstractmethod
    def use(self, box: Path) -> str | None:
        """Use the input as the product does; it may raise `PocketVLMError`. Returns "refused" where
        a refusal is not an error here, as a server's answer of status 400."""


def link_all(source: Path, box: Path) -> None:
    """Let ``box`` hold the files of ``source`` without copying them; see `put`."""
    for path in source.rglob("*"):
        target = box / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)


def put(path: Path, content: bytes) -> None:
    """Write a file anew, so that one that is linked to it stays as it is."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def lead_outside(box: Path, name: str) -> None:
    """Put a link to the file beside the box in the place of one of its files or folders."""
    place = box / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to("../" * (1 + name.count("/")) + SECRET)


def empty(box: Path) -> None:
    """Let ``box`` be an empty folder."""
    shutil.rmtree(box, ignore_errors=True)
    box.mkdir()
