"""Knows how many clients ask a server at once, some of which go in the middle, and what became of
each question."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 300.0  # that an answer may take
_TRIES = 50  # of a client that is sent away because too many wait


@dataclass(frozen=True)
class Question:
    """What one client asks.

    Attributes:
        messages: as OpenAI has them.
        answer: what comes back.
        keys: further ones of the request.
    """

    messages: Sequence[Mapping[str, Any]]
    answer: str
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Tally:
    """What became of the questions.

    Attributes:
        right: answers that are as they should be.
        crossed: answers that are another question's.
        wrong: answers that are nobody's.
        lost: questions without a whole answer.
        dropped: clients that went in the middle, as they were to.
        sent_away: times that a client got status 429.
        notes: what was wrong, of the first few.
    """

    right: int = 0
    crossed: int = 0
    wrong: int = 0
    lost: int = 0
    dropped: int = 0
    sent_away: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was crossed, wrong or lost."""
        return not (self.crossed or self.wrong or self.lost)

    def __str__(self) -> str:
        counts = (
            f"{self.right} right, {self.wrong} wrong, {self.lost} lost, {self.crossed} crossed, "
            f"{self.dropped} clients gone, {self.sent_away} times asked again"
        )
        return "; ".join([counts, *self.notes])


class Load:
    """Clients that ask one server.

    Args:
        url: of the API, as in ``http://127.0.0.1:8080/v1``.
        questions: one for each client, with answers that differ; a client asks its own again and
            again.
        key: of the server; None where it has none.
        model: the name that is asked for; None asks for none.
        every: after so many requests of all clients one client goes in the middle of its own.
    """

    def __init__(
        self,
        url: str,
        questions: Sequence[Question],
        *,
        key: str | None = None,
        model: str | None = None,
        every: int = 20,
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._questions = list(questions)
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {key}"} if key else {}
        self._model = model
        self._every = every
        self._lock = threading.Lock()
        self._begun = 0
        self._tally = Tally()

    def run(self, requests: int) -> Tally:
        """Ask so many questions in all, one after the other by each client."""
        with ThreadPoolExecutor(len(self._questions)) as clients:
            for done in [clients.submit(self._client, each, requests) for each in self._questions]:
                done.result()
        return self._tally

    def _client(self, question: Question, requests: int) -> None:
        while True:
            with self._lock:
                if self._begun == requests:
                    return
                self._begun += 1
                number = self._begun
            if number % self._every == 0:
                self._ask_and_go(question, waits=number // self._every % 3)
                self._count("dropped")
            else:
                self._ask(question, streamed=number % 2 == 1)

    def _ask(self, question: Question, *, streamed: bool) -> None:
        try:
            answer = self._answer(question, streamed=streamed)
        except (OSError, http.client.HTTPException, ValueError, LookupError) as error:
            self._count("lost", f"{type(error).__name__}: {error}")
            return
        if answer == question.answer:
            self._count("right")
        elif any(answer == other.answer for other in self._questions):
            self._count("crossed", f"{answer!r} for {question.answer!r}")
        else:
            self._count("wrong", f"{answer!r} for {question.answer!r}")

    def _answer(self, question: Question, *, streamed: bool) -> str:
        for _ in range(_TRIES):
            connection = self._connection()
            try:
                self._send(connection, question, streamed=streamed)
                response = connection.getresponse()
                if response.status == 429:
                    response.read()
                    self._count("sent_away")
                    time.sleep(min(2.0, float(response.headers["Retry-After"])))
                    continue
                if response.status != 200:
                    raise ValueError(f"status {response.status}: {response.read(300)!r}")
                return _streamed(response) if streamed else _whole(response)
            finally:
                connection.close()
        raise LookupError(f"sent away {_TRIES} times")

    def _ask_and_go(self, question: Question, waits: int) -> None:
        """Begin, and go without a word: before anything comes, at the first piece, or at once."""
        connection = self._connection()
        try:
            self._send(connection, question, streamed=True)
            if waits:
                response = connection.getresponse()
                response.readline()
                if waits > 1:
                    response.readline()
            # Nothing is said on the way out: the other side learns of it by a reset.
            linger = struct.pack("ii", 1, 0)
            if connection.sock is not None:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except (OSError, http.client.HTTPException) as error:
            self._count("lost", f"the one that goes: {type(error).__name__}: {error}")
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=_SECONDS)

    def _send(
        self, connection: http.client.HTTPConnection, question: Question, *, streamed: bool
    ) -> None:
        asked = {
            "messages": question.messages,
            "stream": streamed,
            **question.keys,
            **({"model": self._model} if self._model else {}),
        }
        connection.request("POST", self._path, json.dumps(asked).encode(), self._headers)

    def _count(self, name: str, note: str = "") -> None:
        with self._lock:
            setattr(self._tally, name, getattr(self._tally, name) + 1)
            if note and len(self._tally.notes) < 5:
                self._tally.notes.append(f"{name}: {note}"[:200])


def _whole(response: http.client.HTTPResponse) -> str:
    data = json.loads(response.read())
    return str(data["choices"][0]["message"]["content"])


def _streamed(response: http.client.HTTPResponse) -> str:
    """The text of all pieces; raises ValueError where the stream does not end as it should."""
    text, ended = "", False
    for line in iter(response.readline, b""):
        name, _, value = line.decode().strip().partition(":")
        if name != "data":
            continue
        if value.strip() == "[DONE]":
            ended = True
            continue
        data = json.loads(value)
        if "error" in data:
            raise ValueError(str(data["error"]))
        for choice in data["choices"]:
            text += choice["delta"].get("content") or ""
    if not ended:
        raise ValueError(f"the stream ended after {text!r}")
    return text
