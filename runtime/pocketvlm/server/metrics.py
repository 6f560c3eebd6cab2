"""Knows what is counted of a server, in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
CONTENT_TYPE: str = CONTENT_TYPE_LATEST


class Metrics:
    """The figures of one server, in a registry of its own.

    Args:
        running: gives the answers under way.
        waiting: gives the requests in line.
        ready: gives whether the model can be asked.
        restarts: gives how often its process was started again.
    """

    def __init__(
        self,
        *,
        running: Callable[[], float],
        waiting: Callable[[], float],
        ready: Callable[[], float],
        restarts: Callable[[], float],
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by path and status.", "path", "status")
        self._tokens = self._counter(
            "tokens", "Tokens of prompts, of these those from the cache, and of answers.", "kind"
        )
        self._broken = self._counter("streams_broken", "Streams that ended with an error.")
        self._first = Histogram(
            "pocketvlm_time_to_first_token_seconds",
            "From a request that was read to the first text of its answer, waiting included.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        for name, text, function in (
            ("answers_running", "Answers under way.", running),
            ("queue_length", "Requests that wait.", waiting),
            ("model_ready", "1 where the model can be asked.", ready),
            ("model_restarts", "How often the model's process was started again.", restarts),
        ):
            gauge = Gauge(f"pocketvlm_{name}", text, registry=self._registry)
            gauge.set_function(function)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pocketvlm_{name}", text, labels, registry=self._registry)

    def requested(self, path: str, status: int) -> None:
        """Count a request that was answered; ``path`` is that of its route."""
        self._requests.labels(path, str(status)).inc()

    def first_token(self, seconds: float) -> None:
        """Note when an answer began."""
        self._first.observe(seconds)

    def answered(self, done: Mapping[str, Any]) -> None:
        """Count the tokens of an answer, by its last event."""
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(kind).inc(done[f"{kind}_tokens"])

    def broken(self) -> None:
        """Count a stream that ended with an error."""
        self._broken.inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        written: bytes = generate_latest(self._registry)
        return written
