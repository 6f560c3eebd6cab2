"""Knows the process that has the model: what it is asked over its pipe it answers in threads, and
it ends when the server does."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from pocketvlm.errors import PocketVLMError
from pocketvlm.server import wire
from pocketvlm.server.errors import new_reference

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a model's process is started with.

    Attributes:
        directory: of the artifact.
        options: arguments of `pocketvlm.VLM.load`.
        models: that are held at once, see `pocketvlm.server.models.Models`.
        begin_log: called in it first; a function of a module, as it is passed on by name.
    """

    directory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    models: int = 2
    begin_log: Callable[[], None] = logging.basicConfig


def run(connection: Connection, setup: Setup) -> None:
    """Load the model, say so, and answer until the server goes; for a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which ends this process
    setup.begin_log()
    from pocketvlm.server.models import Models

    try:
        models = Models(setup.directory, setup.options, setup.models)
        facts = models.facts()
    except PocketVLMError as error:
        wire.send(connection, {"kind": wire.UNFIT, "error": error.to_dict()})
        return
    wire.send(connection, {"kind": wire.READY, "facts": facts})
    _Worker(connection, models).serve()


class _Worker:
    def __init__(self, connection: Connection, models: Any) -> None:
        self._connection = connection
        self._models = models
        self._writing = threading.Lock()
        self._under_way: dict[int, threading.Event] = {}

    def serve(self) -> None:
        """Read requests until nobody sends any. Answers that are under way then end with the
        process, without waiting for the engines."""
        while True:
            try:
                message, blobs = wire.receive(self._connection)
            except (EOFError, OSError):
                os._exit(0)
            if message["kind"] == wire.END:
                os._exit(0)
            if message["kind"] == wire.CANCEL:
                if gone := self._under_way.get(message["id"]):
                    gone.set()
                continue
            number, gone = message["id"], threading.Event()
            self._under_way[number] = gone
            threading.Thread(
                target=self._answer, args=(number, message, blobs, gone), daemon=True
            ).start()

    def _answer(
        self,
        number: int,
        asked: Mapping[str, Any],
        pictures: Sequence[bytes],
        gone: threading.Event,
    ) -> None:
        """Send the events of one answer; the last says how it ended, whatever happens."""
        from pocketvlm.answering import Abandoned

        try:
            self._send_answer(number, asked, pictures, gone)
        except Abandoned:
            self._send(number, {"kind": wire.GONE})
        except PocketVLMError as error:
            self._send(number, {"kind": wire.REFUSED, "error": error.to_dict()})
        except Exception:  # noqa: BLE001 - the server must not wait for ever
            reference = new_reference()
            _log.exception("%s: an answer failed", reference)
            self._send(number, {"kind": wire.FAILED, "reference": reference})
        finally:
            self._under_way.pop(number, None)

    def _send_answer(
        self,
        number: int,
        asked: Mapping[str, Any],
        pictures: Sequence[bytes],
        gone: threading.Event,
    ) -> None:
        from pocketvlm.server.answers import answer_events

        choice = (asked["budget"], asked["vision_precision"], asked["decoder_precision"])
        budget = self._models.budget if asked["budget"] is None else asked["budget"]
        with self._models.using(*choice) as vlm:
            for event in answer_events(vlm, asked, pictures, budget, gone):
                self._send(number, event)

    def _send(self, number: int, event: Mapping[str, Any]) -> None:
        # Where the server has gone, this process is about to.
        with self._writing, suppress(OSError):
            wire.send(self._connection, {"id": number, **event})
