"""Knows how an input is drawn from a strategy of hypothesis by a number: its own tests draw as many
as they like, in an order of their own."""

from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.strategies import SearchStrategy

_TOGETHER = 50  # the first ones that hypothesis draws are the simplest


class Drawn:
    """Examples of a strategy; the same one for the same number."""

    def __init__(self, strategy: SearchStrategy[Any]) -> None:
        self._strategy = strategy
        self._block, self._held = -1, list[Any]()

    def one(self, number: int) -> Any:
        """The example of a number."""
        block = number // _TOGETHER
        if block != self._block:
            self._block, self._held = block, self._draw(block)
        return self._held[number % len(self._held)]

    def _draw(self, block: int) -> list[Any]:
        examples: list[Any] = []

        @seed(block)
        @settings(
            max_examples=_TOGETHER, database=None, phases=[Phase.generate], deadline=None,
            suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
        )  # fmt: skip
        @given(self._strategy)
        def collect(example: Any) -> None:
            examples.append(example)

        collect()
        return examples
