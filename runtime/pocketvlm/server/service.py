"""Knows what a server is made of: its options, what answers, who waits, what is counted."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvlm.decoders.sampling import Base
from pocketvlm.server.errors import Refusal
from pocketvlm.server.metrics import Metrics
from pocketvlm.server.process import Engine
from pocketvlm.server.queue import Queue


@dataclass(frozen=True)
class ServerOptions:
    """How a server is set up.

    Attributes:
        name: of the model, as clients ask for it.
        host: that it listens at.
        api_key: that requests must have; None for none.
        origins: of web pages elsewhere that may ask, ``*`` for all.
        hosts: further names that this server is called by, ``*`` for all.
        parallel: answers under way at once.
        waiting: requests that may wait.
        max_body: bytes of a request, pictures included.
        base: what a `pocketvlm.Sampling` takes what a request leaves out from.
        using: the file ``using.json`` of the artifact, for the page; None where it has none.
    """

    name: str = "pocketvlm"
    host: str = "127.0.0.1"
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    parallel: int = 2
    waiting: int = 16
    max_body: int = 32_000_000
    base: Base = "greedy"
    using: str | None = None


class Service:
    """One server at work; it lives in one event loop."""

    def __init__(self, options: ServerOptions, engine: Engine) -> None:
        self.options = options
        self.engine = engine
        self.queue = Queue(options.parallel, options.waiting)
        self.metrics = Metrics(
            running=lambda: self.queue.running,
            waiting=lambda: self.queue.waiting,
            ready=lambda: engine.state == "ready",
            restarts=lambda: engine.restarts,
        )

    @property
    def fingerprint(self) -> str:
        """Which artifact answers."""
        return f"pvlm_{self.engine.facts.get('artifact_id', '')[:12]}"

    def check_model(self, name: str | None) -> None:
        """Raise `Refusal` for the name of a model that is not served; none or an empty one is any
        model."""
        if name and name != self.options.name:
            raise Refusal(
                404,
                f"there is no model {name[:100]!r}, this is {self.options.name!r}",
                param="model",
                code="model_not_found",
            )
