"""Knows the model's process from the server's side: it is started, gets requests, and is restarted
when it dies. No answer waits for a dead process."""

from __future__ import annotations

import asyncio
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol

from pocketvlm.errors import EngineError, PocketVLMError, error_from_dict
from pocketvlm.files.spawning import spawn_context
from pocketvlm.server import wire
from pocketvlm.server.errors import Refusal, internal, refusal_of, unavailable
from pocketvlm.server.worker import Setup, run

_log = logging.getLogger(__name__)

# What is written to the process, in order; None ends it.
_Outgoing = queue.SimpleQueue[tuple[wire.Message, Sequence[bytes]] | None]
State = Literal["loading", "ready", "restarting", "closed"]
_LONGEST_PAUSE = 30.0  # seconds between two starts
_SOUND = 60.0  # seconds after which a process that died is started again at once
_CLOSING = 5.0  # seconds that a process has to end by itself
_DIED = {"kind": wire.REFUSED, "died": True}


class Answering:
    """One request on its way: its events in order, the last of `wire.LAST`; for one event loop."""

    def __init__(self, cancel: Callable[[], None], ended: Callable[[], None]) -> None:
        """``cancel`` lets the model stop; ``ended`` is called once, in the loop, with the last
        event."""
        self._cancel = cancel
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[wire.Message] = asyncio.Queue()
        self.is_over = False

    async def next(self) -> wire.Message:
        """The next event; raises `Refusal` 503 where the model's process died before it."""
        event = await self._events.get()
        if event.get("died"):
            raise unavailable("the model's process died while it answered; it is started again")
        return event

    def cancel(self) -> None:
        """Let the answer end before its next step, as nobody waits for it."""
        if not self.is_over:
            self._cancel()

    def put(self, event: wire.Message) -> None:
        """Add an event, from any thread."""
        with suppress(RuntimeError):  # the loop has ended, and with it who waits
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: wire.Message) -> None:
        self._events.put_nowait(event)
        if event["kind"] in wire.LAST and not self.is_over:
            self.is_over = True
            self._ended()


class Engine(Protocol):
    """What answers, as the server sees it."""

    @property
    def state(self) -> State:
        """Whether it can be asked: ``"ready"``."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `pocketvlm.server.models.Models.facts`."""

    @property
    def restarts(self) -> int:
        """How often the process was started again."""

    def ask(
        self, asked: Mapping[str, Any], pictures: Sequence[bytes], ended: Callable[[], None]
    ) -> Answering:
        """Begin an answer; ``ended`` is called in the running loop when it is over, however it
        ends. Raises `Refusal` 503 where nobody can be asked."""


class ModelProcess:
    """Starts and asks the model's process, see `Engine`.

    A separate thread reads what the process writes, and starts the next one when it dies. It does
    so at once if the process had worked for a while, else after a pause that doubles each time.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self._pending: dict[int, Answering] = {}
        self._number = 0
        self._outgoing: _Outgoing = queue.SimpleQueue()
        self._process: BaseProcess | None = None
        self._error: PocketVLMError | None = None
        self._settled = threading.Event()  # it is ready for the first time, or never will be
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="model", daemon=True)
        self.state: State = "loading"
        self.facts: Mapping[str, Any] = {}
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            PocketVLMError: the artifact is refused, or the process died while it loaded.
        """
        self._thread.start()
        try:
            while not self._settled.wait(0.2):  # so that Ctrl-C gets through
                pass
        except BaseException:
            self.close()
            raise
        if self._error is not None:
            raise self._error

    def ask(
        self, asked: Mapping[str, Any], pictures: Sequence[bytes], ended: Callable[[], None]
    ) -> Answering:
        """See `Engine.ask`."""
        with self._lock:
            if self.state != "ready":
                raise unavailable(f"the model is not ready: {self.state}")
            self._number += 1
            number, outgoing = self._number, self._outgoing

            def cancel() -> None:
                outgoing.put(({"kind": wire.CANCEL, "id": number}, ()))

            answering = self._pending[number] = Answering(cancel, ended)
            outgoing.put(({"kind": wire.ASK, "id": number, **asked}, pictures))
        return answering

    def end_answers(self) -> None:
        """Take no more requests, and end the answers that are under way before their next step."""
        with self._lock:
            self.state = "closed"
            pending = list(self._pending.values())
        for answering in pending:
            answering.cancel()

    def close(self) -> None:
        """End the process, and with it the answers that are under way."""
        self._closing.set()
        self._outgoing.put(({"kind": wire.END}, ()))
        if self._thread.is_alive():
            self._thread.join(_CLOSING)
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._thread.join(_CLOSING)

    def _supervise(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C is the server's: what starts here never
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # sees it, and inherits that
        pause = 0.0
        while not self._closing.wait(pause):
            started = time.monotonic()
            exit_code = self._run_once()
            if self._closing.is_set() or self._error is not None:
                break
            if not self._settled.is_set():
                self._error = EngineError(
                    f"the model's process ended while it loaded (exit code {exit_code})",
                    advice="look at what it wrote, or free memory",
                )
                break
            self.restarts += 1
            _log.error("the model's process died (exit code %s): it is started again", exit_code)
            lived = time.monotonic() - started
            pause = 0.0 if lived > _SOUND else min(_LONGEST_PAUSE, max(2 * pause, 0.1))
        self.state = "closed"
        self._settled.set()

    def _run_once(self) -> int | None:
        """Start a process and read from it until it ends; returns its exit code."""
        context = spawn_context()
        ours, theirs = context.Pipe()
        process = context.Process(
            target=run, args=(theirs, self._setup), name="pocketvlm-model", daemon=True
        )
        process.start()
        theirs.close()  # so that its end is seen here
        self._process = process
        outgoing: _Outgoing = queue.SimpleQueue()
        if self._closing.is_set():
            process.kill()
        with self._lock:
            self._outgoing = outgoing
        writer = threading.Thread(target=_write, args=(ours, outgoing), daemon=True)
        writer.start()
        try:
            while True:
                message, _ = wire.receive(ours)
                self._take(message)
        except (EOFError, OSError, ValueError, KeyError) as error:
            _log.debug("nothing more comes from the model's process (%r)", error)
        process.join(_CLOSING)
        process.kill()  # where it wrote nonsense and continues
        process.join()
        self._fail_all()
        outgoing.put(None)
        writer.join(_CLOSING)
        ours.close()
        return process.exitcode

    def _take(self, message: wire.Message) -> None:
        kind = message["kind"]
        if kind == wire.READY:
            self.facts, self.state = message["facts"], "ready"
            self._settled.set()
        elif kind == wire.UNFIT:
            error = error_from_dict(message["error"])
            if self._settled.is_set():
                _log.error("the artifact is refused: %s", error)
            else:
                self._error = error
        else:
            with self._lock:
                number = message["id"]
                over = kind in wire.LAST
                answering = (self._pending.pop if over else self._pending.__getitem__)(number)
            answering.put(message)

    def _fail_all(self) -> None:
        with self._lock:
            self.state = "restarting"
            pending, self._pending = self._pending, {}
        for answering in pending.values():
            answering.put(_DIED)


def _write(connection: Connection, outgoing: _Outgoing) -> None:
    """Write what is put into the queue, until None is or nobody reads."""
    while (item := outgoing.get()) is not None:
        try:
            wire.send(connection, *item)
        except OSError as error:
            _log.debug("the model's process reads no more (%r)", error)
            return


def refusal_in(event: wire.Message) -> Refusal | None:
    """The refusal that an event of an answer is; None for any other."""
    if event["kind"] == wire.REFUSED:
        return refusal_of(event["error"])
    return internal(event["reference"]) if event["kind"] == wire.FAILED else None
