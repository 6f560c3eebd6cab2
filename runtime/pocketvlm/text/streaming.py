"""Knows how tokens become text piece by piece, never half a character, and how a stream ends in an
answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Self

import tokenizers

from pocketvlm.answer import Answer

_INCOMPLETE = "\ufffd"  # what tokenizers writes for bytes that are not yet a whole character


class Detokenizer:
    """Turns token ids into text pieces whose concatenation equals decoding all ids at once.

    Byte-level tokens may end inside a character, so a piece is held back until its character is
    whole. Decoding restarts a little before the pending tokens, as decoders treat the first token
    of a text apart (a leading space).
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._emitted = ""
        self._context = 0  # where decoding restarts
        self._pending = 0  # tokens from here on are not yet given out

    def push(self, token_id: int) -> str:
        """The text that is certain after this token; may be empty."""
        self._ids.append(token_id)
        known = self._decode(self._context, self._pending)
        text = self._decode(self._context, len(self._ids))
        if text.endswith(_INCOMPLETE) or not text.startswith(known):
            return ""
        self._context, self._pending = self._pending, len(self._ids)
        piece = text[len(known) :]
        self._emitted += piece
        return piece

    def finish(self) -> str:
        """What was held back, incomplete characters included as U+FFFD."""
        return self.text[len(self._emitted) :]

    @property
    def text(self) -> str:
        """All tokens decoded at once."""
        return self._decode(0, len(self._ids))

    def _decode(self, start: int, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)
        return text


class Stream(Iterator[str]):
    """An answer on its way: iterate over its text pieces, then read `answer`.

    Attributes:
        stop: call it, from any thread or signal handler, to end the answer after the token on its
            way. It is a whole answer then, with the finish reason ``"interrupted"``; `close` leaves
            none.
    """

    def __init__(
        self, pieces: Generator[str, None, Answer], stop: Callable[[], None] = lambda: None
    ) -> None:
        self._pieces = pieces
        self.stop = stop
        self._answer: Answer | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as stop:
            self._answer = self._answer or stop.value
            raise

    @property
    def answer(self) -> Answer:
        """The whole answer; pieces not yet read are generated first."""
        for _ in self:
            pass
        if self._answer is None:
            raise RuntimeError("the stream was closed before its answer was complete")
        return self._answer

    def close(self) -> None:
        """Stop generating and free the cache."""
        self._pieces.close()
