"""Knows how tokens become text piece by piece, never half a character nor a stop text, and how a
stream ends in an answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Self

import tokenizers

from pocketvlm.answer import Answer
from pocketvlm.errors import ArtifactError, library_errors
from pocketvlm.text.decoding import text_decoder


class StopTexts:
    """Lets text pieces through up to the first stop text, which is left out, and stops there.

    The first is the one that is complete first; of those that are complete with the same character
    the longest. So what comes out does not depend on how a text is cut into pieces. What may be the
    beginning of a stop text is held back until more text decides it.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._texts = tuple(texts)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """What may be given out after this piece; nothing once a stop text was met."""
        if self.stopped:
            return ""
        text = self._held + piece
        start = self._first(text)
        self.stopped = start is not None
        end = len(text) - self._beginning(text) if start is None else start
        self._held = "" if self.stopped else text[end:]
        return text[:end]

    def finish(self) -> str:
        """What was held back and is not a stop text, as nothing follows."""
        held, self._held = self._held, ""
        return held

    def cut(self, text: str) -> str:
        """A whole text up to the first stop text."""
        return text[: self._first(text)]

    def _first(self, text: str) -> int | None:
        """Where the first stop text begins; None without one."""
        starts = [(text.find(stop), len(stop)) for stop in self._texts]
        ends = [(start + length, start) for start, length in starts if start >= 0]
        return min(ends)[1] if ends else None

    def _beginning(self, text: str) -> int:
        """Length of the longest end of the text that a stop text begins with."""
        lengths = (
            length
            for stop in self._texts
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)


class Detokenizer:
    """Turns token ids into text pieces whose concatenation equals decoding all ids at once, up to
    the first stop text.

    A piece is held back until no later token can change it. Bytes wait until their character is
    complete, and with byte fallback until a row of bytes ends. Where the tokenizer's decoder may
    change text far back, the text comes at its end. A token costs the same however many came
    before.

    Args:
        tokenizer: of the model; special tokens are not text, so no stop text is found in them. Ids
            beyond its vocabulary (padding of the embedding) are not text either.
        stop: texts that end the answer, see `StopTexts`.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = StopTexts(stop)
        self._ids: list[int] = []
        self._given_out = 0  # characters of the text, stop texts among them
        with _refused():
            self._decoder = text_decoder(tokenizer.decoder)
            added = tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)

    @property
    def stopped(self) -> bool:
        """Whether a stop text was met: the answer is complete."""
        return self._stop.stopped

    def push(self, token_id: int) -> str:
        """The text that is certain after this token; may be empty."""
        self._ids.append(token_id)
        if self._decoder is None:
            return ""
        with _refused():
            token = self._tokenizer.id_to_token(token_id)
            if token is None or token in self._special:
                return ""
            piece = self._decoder.push(token)
        self._given_out += len(piece)
        return self._stop.push(piece)

    def finish(self) -> str:
        """What was held back, incomplete characters included as U+FFFD."""
        rest = self._decode()[self._given_out :]
        self._given_out += len(rest)
        return self._stop.push(rest) + self._stop.finish()

    @property
    def text(self) -> str:
        """All tokens decoded at once, up to the first stop text."""
        return self._stop.cut(self._decode())

    def _decode(self) -> str:
        with _refused():
            text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text


def _refused() -> AbstractContextManager[None]:
    return library_errors(
        lambda reason: ArtifactError(
            f"the tokenizer cannot write the answer ({reason})", advice="export the artifact again"
        )
    )


class Stream(Iterator[str]):
    """An answer in progress: iterate over its text pieces, then read `answer`.

    >>> from pocketvlm import VLM
    >>> stream = VLM.load("demo-vlm").stream("What is this?", images=["examples/scene-2.png"])
    >>> for piece in stream:
    ...     stream.stop()
    >>> stream.answer.finish_reason
    'interrupted'

    Attributes:
        stop: call it, from any thread or signal handler, to end the answer after the current
            token. The answer is then complete, with the finish reason ``"interrupted"``; after
            `close` there is none.
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
