"""Knows what the converters of public files have in common: JSON read with care, rows written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import RequestError
from pocketvlm.files import read_text, replace_file
from pocketvlm_measure.evaluation.public.published import Published
from pocketvlm_targets.text import parse_json

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
        metric: the name of the metric that scores it.
        read: its rows, out of the files in that order.
        published: what papers report.
    """

    name: str
    files: tuple[str, ...]
    metric: str
    read: Callable[[Sequence[Path]], Iterator[Row]]
    published: Published

    def convert(self, files: Sequence[Path], images: Path, out: Path) -> int:
        """Write the set that `read_questions` reads.

        Args:
            files: the benchmark's own, in the order of ``self.files``.
            images: the folder of its pictures.
            out: the file to write, JSON Lines.

        Returns:
            How many questions the set has.

        Raises:
            PocketVLMError: too few or too many files, another benchmark's files, pictures that are
                not in ``images``, or a file that cannot be written.
        """
        expected = " ".join(self.files)
        least = sum(not name.startswith("[") for name in self.files)
        if not least <= len(files) <= len(self.files):
            given = " ".join(path.name for path in files)
            raise RequestError(f"{len(files)} files for {self.name} ({given})", expected=expected)
        lines: list[str] = []
        try:
            for row in self.read(files):
                picture = (images / row.image).resolve()
                if not lines and not picture.is_file():
                    raise RequestError(
                        f"there is no picture {picture}",
                        advice=f"give the folder that holds {row.image}",
                        setting="images",
                    )
                lines.append(json.dumps({**vars(row), "image": str(picture)}, ensure_ascii=False))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RequestError(
                f"these are not files of {self.name} ({type(error).__name__}: {error})",
                expected=expected,
            ) from error
        if not lines:
            raise RequestError("there is no question in these files", expected=expected)
        try:
            replace_file(out, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise RequestError(
                f"{out} cannot be written ({error.strerror})",
                advice="name another file",
                setting="output",
            ) from error
        return len(lines)


def read_json(path: Path) -> Any:
    """The value in a file; raises `PocketVLMError`."""
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read as JSON ({error})", advice="give the benchmark's own file"
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file, one per line; raises `PocketVLMError`."""
    try:
        # Not splitlines, which ends a line at characters that JSON has within its texts.
        return [parse_json(line) for line in read_text(path).split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{path} cannot be read as JSON Lines ({error})", advice="give the benchmark's own file"
        ) from error


def text(entry: Mapping[str, Any], key: str) -> str:
    """A required text of an entry; raises KeyError or TypeError."""
    value = entry[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a string")
    return value
