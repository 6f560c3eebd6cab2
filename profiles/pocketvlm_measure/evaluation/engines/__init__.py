"""Where tasks are answered: in this process, in several, on a cluster. One module each, and a line
in the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from pocketvlm_measure.evaluation.asking import Reply
from pocketvlm_measure.evaluation.plan import Task


class Engine(Protocol):
    """Answers tasks, in any order."""

    def answered(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Reply]]]:
        """Each task with its replies, as they come; raises `PocketVLMError` where a worker cannot
        go on."""
        ...


def _local(workers: int) -> Engine:
    from pocketvlm_measure.evaluation.engines.local import Inline, Processes

    return Processes(workers) if workers > 1 else Inline()


def _ray(workers: int) -> Engine:
    from pocketvlm_measure.evaluation.engines.ray import Ray

    return Ray(workers)


ENGINES: dict[str, Callable[[int], Engine]] = {"local": _local, "ray": _ray}
