"""Knows what an evaluation engine is: it answers tasks, wherever their workers run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from pocketvlm_measure.evaluation.asking import Reply
from pocketvlm_measure.evaluation.plan import Task


class Engine(Protocol):
    """Answers tasks, in any order."""

    def answered(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Reply]]]:
        """Each task with its replies, as they come.

        Raises:
            PocketVLMError: a worker cannot continue.
        """
        ...
