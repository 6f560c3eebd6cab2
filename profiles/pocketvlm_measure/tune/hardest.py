"""Knows which question of a set is timed: the one that takes the most, so that limits hold for
all."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.errors import PocketVLMError
from pocketvlm_measure.evaluation.media import DATA, source_of
from pocketvlm_measure.evaluation.questions import Question
from pocketvlm_measure.profiler import questions as profiler
from pocketvlm_measure.profiler.questions import made_up_prompt

_NEW_TOKENS = 8  # of a timed answer, which is timed to its first


def hardest(artifact: Artifact, questions: Sequence[Question]) -> profiler.Question:
    """The question with the most and largest pictures, of these the longest; clips count by their
    bytes.

    Pictures within the set itself (data URIs) cannot be handed to another process: noise of their
    size replaces them. A set without pictures is timed with noise too.
    """
    question = max(questions, key=lambda one: (*_work(one), len(one.text)))
    files = not any(reference.startswith(DATA) for reference in question.media)
    if question.media and files:
        return profiler.Question(
            question.text, question.images, _NEW_TOKENS, videos=question.videos
        )
    size = None
    if question.images:
        size = max((_size(image) for image in question.images), key=lambda one: one[0] * one[1])
    return profiler.Question(made_up_prompt(artifact), (), _NEW_TOKENS, size)


def _work(question: Question) -> tuple[int, int]:
    """(bytes of clips, pixels of pictures)."""
    clips = sum(_bytes(video) for video in question.videos)
    return clips, sum(width * height for width, height in map(_size, question.images))


def _size(image: str) -> tuple[int, int]:
    """(width, height) as its header states it; a single pixel where it cannot be read, which the
    question's own turn refuses."""
    try:
        source = source_of(image)
        with Image.open(source if isinstance(source, Path) else BytesIO(source)) as opened:
            return opened.size
    except (PocketVLMError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1, 1


def _bytes(video: str) -> int:
    if video.startswith(DATA):
        return len(video)
    try:
        return Path(video).stat().st_size
    except OSError:
        return 0
