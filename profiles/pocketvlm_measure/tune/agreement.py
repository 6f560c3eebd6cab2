"""Knows how a model is measured without answers: every question is asked about every picture, and
what is counted is agreement with the unpruned model's own answers.

That is not accuracy: where the unpruned model is wrong, whoever agrees is wrong too, and whoever
puts it right counts as a loss. It is called by its name wherever it is printed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files import read_text, user_path
from pocketvlm.media.folders import pictures_in
from pocketvlm_measure.evaluation.media import fingerprint
from pocketvlm_measure.evaluation.metrics.base import MeanMetric
from pocketvlm_measure.evaluation.metrics.exact import plain
from pocketvlm_measure.evaluation.questions import Question, QuestionSet
from pocketvlm_measure.table import count

FIGURE = "agreement with the unpruned model"
FIGURE_PRUNED = "agreement with the baseline"  # where that is pruned too
MOST_PAIRS = 1000  # of a picture and a question, unless more are asked for
_MAX_BYTES = 4 << 20  # of a file of questions


class Agreement(MeanMetric):
    """1 for an answer that is the unpruned model's; case, spaces at the ends and full stops at the
    end do not count."""

    name = "exact"
    figures = (FIGURE,)

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1 or 0."""
        return float(plain(answer) in map(plain, expected))


class Overlap(MeanMetric):
    """How many words an answer and the unpruned model's have in common: 2 c / (a + b) of c common
    ones, a and b in all, each as often as it occurs. This is the token F1 of SQuAD (Rajpurkar et
    al. 2016, arXiv 1606.05250, section 6.1)."""

    name = "overlap"
    figures = (FIGURE,)

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """0 to 1, of the nearest of those expected."""
        return max((_overlap(answer, text) for text in expected), default=0.0)


METRICS: Mapping[str, type[MeanMetric]] = {"exact": Agreement, "overlap": Overlap}


@dataclass(frozen=True)
class Pairs:
    """Questions about pictures, without answers.

    Attributes:
        questions: a set without answers: expected is what the unpruned model answers.
        pictures, texts: how many pictures and questions there are.
        sampled: whether not every question is asked about every picture.
        ignored: how many other files the folder holds.
    """

    questions: QuestionSet
    pictures: int
    texts: int
    sampled: bool
    ignored: int

    @property
    def note(self) -> str:
        """What is asked and what is counted, for people, where the baseline is unpruned."""
        return self.noted(FIGURE)

    def noted(self, figure: str) -> str:
        """The same of a ``figure`` that is counted."""
        asked, every = len(self.questions.questions), self.pictures * self.texts
        about = f"{count(self.texts, 'question')} about {count(self.pictures, 'picture')}"
        which = f"{asked} of {every} pairs, spread evenly" if self.sampled else "every pair"
        return (
            f"there are no answers: {about}, {which}; counted is {figure}'s own answers, which is "
            "not accuracy"
        )


def read_pairs(pictures: Path, questions: Path, limit: int | None = None) -> Pairs:
    """Read a folder of pictures, and a text file with one question per line.

    Args:
        pictures: files in it whose names end as pictures' do; folders in it are not entered.
        questions: UTF-8; empty lines mean nothing, and a question that comes again is asked once.
        limit: pairs of a picture and a question at most, `MOST_PAIRS` if not given. Of more than
            that a sample is asked, in which pictures and questions come up as evenly as can be.

    Raises:
        RequestError: no folder, no picture in it, or a file without questions.
    """
    images, ignored = _pictures(user_path(pictures))
    texts = _texts(user_path(questions))
    every = len(images) * len(texts)
    asked = min(every, limit or MOST_PAIRS)
    pairs = [
        (images[number % len(images)], (number % len(images) + number // len(images)) % len(texts))
        for number in range(asked)
    ]
    made = [
        Question(
            line=number,
            id=f"{image.name}:{place + 1}",
            text=texts[place],
            answers=(),
            images=(str(image),),
        )
        for number, (image, place) in enumerate(sorted(pairs), start=1)
    ]
    data = QuestionSet(questions, made, (), _digest(made))
    return Pairs(data, len(images), len(texts), asked < every, ignored)


def _overlap(answer: str, expected: str) -> float:
    ours, theirs = Counter(plain(answer).split()), Counter(plain(expected).split())
    words = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / words if words else 1.0


def _pictures(folder: Path) -> tuple[list[Path], int]:
    """The pictures of a folder by name, and the number of other files."""
    try:
        images, others = pictures_in(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"--pictures {folder} cannot be read ({reason})",
            expected="a folder of pictures",
            setting="pictures",
        ) from error
    if not images:
        raise RequestError(
            f"--pictures {folder} holds no picture",
            expected="files such as photo.jpg or photo.png",
            setting="pictures",
        )
    return images, len(others)


def _texts(path: Path) -> list[str]:
    """The questions of a file, each once."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"--questions {path} cannot be read ({reason})",
            expected="a text file, one question per line",
            setting="questions",
        ) from error
    texts = list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
    if not texts:
        raise RequestError(
            f"--questions {path} is empty", expected="one question per line", setting="questions"
        )
    return texts


def _digest(questions: Sequence[Question]) -> str:
    """SHA-256 (hex) of the questions and of what their pictures hold."""
    marks = {image: fingerprint([image]) for one in questions for image in one.images}
    rows = [[Path(image).name, marks[image], one.text] for one in questions for image in one.images]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
