"""Knows a question set: one JSON object per line, and what is wrong with a broken line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import RequestError
from pocketvlm.files import user_path
from pocketvlm.limits import whole
from pocketvlm.media.pictures import PictureLimits
from pocketvlm_measure.evaluation.media import DATA
from pocketvlm_targets.text import parse_json, without_mark

# Of a line: a picture in base64, and words.
MAX_LINE_BYTES = 2 * PictureLimits().max_bytes


@dataclass(frozen=True)
class Question:
    """One line of a set.

    Attributes:
        line: its number in the file, from 1.
        id: as the file names it, else the line's number.
        text: the question, as it is put to the model.
        answers: those expected; what several mean depends on the metric.
        images: pictures that it is about, absolute paths or data URIs.
        tags: what it belongs to.
        videos: clips that it is about, likewise; pictures come before them.
    """

    line: int
    id: str
    text: str
    answers: tuple[str, ...]
    images: tuple[str, ...]
    tags: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()

    @property
    def media(self) -> tuple[str, ...]:
        """All that it is about; questions about the same share it."""
        return self.images + self.videos


@dataclass(frozen=True)
class Broken:
    """A line that cannot be asked, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class QuestionSet:
    """A file of questions.

    Attributes:
        path: the file.
        questions: of its sound lines, in order.
        broken: the others.
        sha256: of the file.
    """

    path: Path
    questions: Sequence[Question]
    broken: Sequence[Broken]
    sha256: str


class _WrongLine(ValueError):
    """What is wrong with a line."""


def read_questions(path: Path, limit: int | None = None) -> QuestionSet:
    """Read a set: JSON Lines with ``question`` (text), ``answers`` (texts), and ``image`` (a path,
    from the file's folder if relative, a data URI, or a list of such), ``video`` (likewise, of
    clips), ``tags`` (texts) and ``id`` where there are any.

    Args:
        path: the file. Empty lines mean nothing.
        limit: sound lines to take; the rest is not checked. None takes all.

    Raises:
        PocketVLMError: the file cannot be read, or has no sound line.
    """
    path = user_path(path)
    limit = None if limit is None else whole(limit, "limit", least=1)
    questions: list[Question] = []
    broken: list[Broken] = []
    digest = hashlib.sha256()
    folder = path.resolve().parent
    for number, line in enumerate(_lines(path, digest.update), start=1):
        if not line.strip() or (limit is not None and len(questions) >= limit):
            continue
        try:
            questions.append(_question(line, number, folder))
        except _WrongLine as error:
            broken.append(Broken(number, str(error)))
    if not questions:
        why = f"{path} line {broken[0].line}: {broken[0].reason}" if broken else f"{path} is empty"
        raise RequestError(
            f"no question: {why}",
            expected="JSON Lines with image or video, question and answers",
            setting="data",
        )
    return QuestionSet(path, questions, broken, digest.hexdigest())


def _lines(path: Path, digest: Callable[[bytes], None]) -> Iterator[bytes]:
    """The lines with their ends, of one that is too long only the first `MAX_LINE_BYTES` bytes and
    one, the first without a byte order mark. ``digest`` gets every byte."""
    try:
        with path.open("rb") as file:
            begun = False
            while line := file.readline(MAX_LINE_BYTES + 1):
                digest(line)
                # json leaves out the marks of other lines, where files were put together.
                yield line if begun else without_mark(line)
                begun = True
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES + 1)
                    digest(line)
    except (OSError, ValueError) as error:  # ValueError: of `without_mark`
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"{path} cannot be read ({reason})",
            advice="give a question set as JSON Lines",
            setting="data",
        ) from error


def _question(line: bytes, number: int, folder: Path) -> Question:
    if len(line) > MAX_LINE_BYTES:
        raise _WrongLine(f"has more than {MAX_LINE_BYTES} bytes")
    try:
        row = parse_json(line)
    except ValueError as error:
        raise _WrongLine(f"is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _WrongLine("is not a JSON object")
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise _WrongLine("has no question: expected a string")
    name = row.get("id", number)
    if not isinstance(name, str | int):
        raise _WrongLine("has an id that is not a string")
    answers = _texts(row, "answers")
    if not answers:
        raise _WrongLine("has no answers: expected a list of strings")
    return Question(
        number,
        str(name),
        text,
        answers,
        _places(row, "image", folder),
        _texts(row, "tags"),
        _places(row, "video", folder),
    )


def _places(row: dict[str, Any], key: str, folder: Path) -> tuple[str, ...]:
    """One reference or a list of them, absolute, so that another process finds it."""
    given = [row[key]] if isinstance(row.get(key), str) else _texts(row, key)
    return tuple(
        reference if reference.startswith(DATA) else str(folder / user_path(reference))
        for reference in given
    )


def _texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = row.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _WrongLine(f"has {key!r} that is not a list of strings")
    return tuple(texts)
