"""Knows what a self-test found: figures beside their bounds, graph by graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pocketvlm.errors import EngineError


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes:
        name: what was compared: ``kept`` (part of the kept indices that are equal), ``features``,
            ``logits``, ``attention`` (cosines, and how far they differ at most),
            ``tokens`` (of the greedy tokens those that are equal).
        value: what was computed here.
        bound: the least or the most that it may be.
        at_least: whether the bound is the least.
    """

    name: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether it is within its bound; NaN is not."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        return f"{self.name} {self.value:.4g} ({side} {self.bound:.4g})"


@dataclass(frozen=True)
class GraphResult:
    """One graph.

    Attributes:
        check: which check it is, the same in every process.
        graph: the file.
        what: its part and precision, for people.
        figures: what was compared; none where it failed.
        error: why it could not be computed; empty where it could.
    """

    check: str
    graph: str
    what: str
    figures: Sequence[Figure] = ()
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was computed, and every figure is within its bound."""
        return not self.error and all(figure.passed for figure in self.figures)

    @property
    def problem(self) -> str:
        """Why it did not pass, in words; empty where it did."""
        return self.error or "; ".join(str(each) for each in self.figures if not each.passed)


@dataclass(frozen=True)
class SelfTestResult:
    """A self-test on one device.

    Attributes:
        provider: the execution providers that computed, the preferred one first.
        graphs: a row for each check.
        spent_ms: how long all of it took.
        left_out: engines of the artifact that are not installed here, whose decoders were not
            computed.
    """

    provider: str
    graphs: Sequence[GraphResult]
    spent_ms: float = 0.0
    left_out: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether every graph did."""
        return all(graph.passed for graph in self.graphs)

    def raise_if_failed(self, folder: object) -> None:
        """Raise `EngineError` with the first graph that did not pass: the value, its bound, and
        what to do."""
        for graph in self.graphs:
            if not graph.passed:
                raise EngineError(
                    f"{graph.graph} of {folder} fails its self-test on {self.provider} "
                    f"({graph.problem})",
                    advice="answer with the CPU provider (--provider cpu), or with other options "
                    "of this one",
                )

    def to_dict(self) -> dict[str, Any]:
        """What ``verify --json`` prints."""
        return {
            "passed": self.passed,
            "provider": self.provider,
            "ms": self.spent_ms,
            "left_out": list(self.left_out),
            "graphs": [
                {
                    "graph": row.graph,
                    "what": row.what,
                    "passed": row.passed,
                    "figures": {
                        each.name: {"value": each.value, "bound": each.bound, "passed": each.passed}
                        for each in row.figures
                    },
                    **({"error": row.error} if row.error else {}),
                }
                for row in self.graphs
            ],
        }
