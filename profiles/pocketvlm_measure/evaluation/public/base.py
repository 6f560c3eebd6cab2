"""Knows what the converters of public files have in common: JSON read with care, rows written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import RequestError
from pocketvlm.files import replace_file

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True)
class Row:
    """One question; ``image`` is a file's name in the folder of pictures."""

    id: str
    image: str
    question: str
    answers: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark.

    Attributes:
        name: as the command line calls it.
        files: the names of its files, those that may be left out in brackets.
        metric: what scores it.
        read: its rows, out of the files in that order.
    """

    name: str
    files: tuple[str, ...]
    metric: str
    read: Callable[[Sequence[Path]], Iterator[Row]]

    def convert(self, files: Sequence[Path], images: Path, out: Path) -> int:
        """Write the set that `read_questions` reads; returns how many questions it has.

        Raises:
            PocketVLMError: another number of files than there should be, one that is not what it
                should be, pictures that are not in ``images``, or a file that cannot be written.
        """
        least = sum(not name.startswith("[") for name in self.files)
        if not least <= len(files) <= len(self.files):
            raise RequestError(
                f"{self.name} has {len(files)} files", expected=f"{' '.join(self.files)}"
            )
        lines: list[str] = []
        try:
            for row in self.read(files):
                picture = (images / row.image).resolve()
                if not lines and not picture.is_file():
                    raise RequestError(
                        f"there is no picture {picture}",
                        advice=f"give the folder that holds {row.image}",
                    )
                lines.append(json.dumps({**vars(row), "image": str(picture)}, ensure_ascii=False))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RequestError(
                f"these are no files of {self.name} ({type(error).__name__}: {error})",
                expected=f"{' '.join(self.files)}",
            ) from error
        if not lines:
            raise RequestError(
                "there is no question in these files", expected=f"{' '.join(self.files)}"
            )
        try:
            replace_file(out, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise RequestError(
                f"{out} cannot be written ({error.strerror})", advice="name another file"
            ) from error
        return len(lines)


def read_json(path: Path) -> Any:
    """The value in a file; raises `PocketVLMError`."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{path} cannot be read as JSON ({error})", advice="give the benchmark's own file"
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file of one a line; raises `PocketVLMError`."""
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(
            f"{path} cannot be read as JSON Lines ({error})", advice="give the benchmark's own file"
        ) from error


def text(found: Mapping[str, Any], key: str) -> str:
    """A text that must be there; raises KeyError or TypeError."""
    value = found[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return value
