"""Knows a conversation: questions, pictures and answers so far, what of them fits the context, and
what is dropped."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pocketvlm.answer import Answer
from pocketvlm.answering import Answerer, Request, Sampling, ms_since
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.text.prompts import Message
from pocketvlm.text.streaming import Stream
from pocketvlm.vision.viewer import Look


@dataclass(frozen=True)
class _Turn:
    """A question with its pictures and its answer (None: being asked); ``carried`` are pictures of
    dropped turns."""

    question: str
    pictures: tuple[Look, ...]
    answer: str | None = None
    carried: tuple[Look, ...] = ()

    @property
    def looks(self) -> tuple[Look, ...]:
        return self.carried + self.pictures


class Chat:
    """A conversation about pictures, from `pocketvlm.VLM.chat`.

    The prompt of every answer is the whole conversation as the chat template renders it; the
    decoder keeps what it has computed, so only what is new is computed. No picture is encoded
    twice.

    **When the context is full** the oldest turns (a question with its answer) are dropped, until
    the rest takes at most three quarters of the room, so that not every answer must drop again.
    Their pictures stay: they go to the front of the oldest turn that is left, the latest of them,
    as many as fit in half of the context. Only what is dropped for an answer is gone for good; a
    question that does not fit even alone is refused and changes nothing.

    An answer stopped early stays in the conversation as far as it went, one that failed does not.
    Other answers of the same `pocketvlm.VLM` may come between: they cost this conversation a longer
    prefill, nothing else.
    """

    def __init__(self, answerer: Answerer, budget: int) -> None:
        self._answerer = answerer
        self._budget = budget
        self._turns: list[_Turn] = []
        self.dropped_turns = 0

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, in the form that chat templates read."""
        return self._messages(self._turns)

    def ask(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        videos: Sequence[Video] | None = None,
    ) -> Answer:
        """Ask the next question, with pictures or clips of its own or about those shown before; see
        `VLM.generate`."""
        return self.stream(prompt, images, max_new_tokens, temperature, top_p, seed, videos).answer

    def stream(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        videos: Sequence[Video] | None = None,
    ) -> Stream:
        """As `ask`, in text pieces: iterate, then read ``.answer``. Refusals come at once, not
        while iterating."""
        started = time.perf_counter()
        sampler = self._answerer.sampler(Sampling(max_new_tokens, temperature, top_p, seed))
        looks = tuple(self._answerer.viewer.look(images, self._budget, videos))
        turns, ids = self._fit([*self._turns, _Turn(prompt, looks)], max_new_tokens)
        seen = [look for turn in turns for look in turn.looks]
        request = Request(
            ids, seen, max_new_tokens, sampler, ms_since(started), cached=True, continued=True
        )
        answer = self._answerer.begin(request)
        return Stream(self._record(answer, turns), answer.stop)

    def reset(self) -> None:
        """Forget the conversation and free the decoder's cache; features of pictures stay in
        theirs."""
        self._turns = []
        self.dropped_turns = 0
        self._answerer.forget()

    def _record(self, answer: Stream, turns: list[_Turn]) -> Generator[str, None, Answer]:
        """Pass the answer on, and write down what was said once it ends or is left."""
        before = self._turns
        said = ""
        try:
            for piece in answer:
                said += piece
                yield piece
        except GeneratorExit:
            answer.close()
            if said:
                self._add(before, turns, said)
            raise
        self._add(before, turns, answer.answer.text)
        return answer.answer

    def _add(self, before: list[_Turn], turns: list[_Turn], said: str) -> None:
        if (
            self._turns is before
        ):  # not so where it was reset, or another question has been answered meanwhile
            self._turns = [*turns[:-1], replace(turns[-1], answer=said)]
            self.dropped_turns += len(before) + 1 - len(turns)

    def _messages(self, turns: Sequence[_Turn]) -> list[Message]:
        messages: list[Message] = []
        prompter = self._answerer.prompter
        for turn in turns:
            messages += prompter.messages(
                turn.question, len(turn.pictures), carried=len(turn.carried)
            )
            if turn.answer is not None:
                messages.append(prompter.reply(turn.answer))
        return messages

    def _ids(self, turns: Sequence[_Turn]) -> tuple[npt.NDArray[np.int64], int]:
        """Their ids with an image token for each picture, and how many there are once all are
        placed."""
        looks = [look for turn in turns for look in turn.looks]
        prompter = self._answerer.prompter
        ids = prompter.encode_messages(self._messages(turns), len(looks))
        return ids, len(prompter.place(ids, [look.ids for look in looks]))

    def _fit(
        self, turns: list[_Turn], max_new_tokens: int
    ) -> tuple[list[_Turn], npt.NDArray[np.int64]]:
        """The turns that stay, by the rule above, and their ids with an image token for each
        picture."""
        context = self._answerer.decoder.context
        room = context - (max_new_tokens - 1)
        ids, length = self._ids(turns)
        if length > room:
            while len(turns) > 1 and length > room * 3 // 4:
                turns = _without_oldest(turns, most=context // 2)
                ids, length = self._ids(turns)
            while length > room and turns[0].carried:
                turns = [replace(turns[0], carried=turns[0].carried[1:]), *turns[1:]]
                ids, length = self._ids(turns)
            self._answerer.check_room(length, max_new_tokens)
        return turns, ids


def _without_oldest(turns: list[_Turn], most: int) -> list[_Turn]:
    """One turn fewer; the latest of its pictures, of ``most`` visual tokens at most, go to the
    front of the next."""
    oldest, heir, *rest = turns
    taken = list(itertools.accumulate(look.slots for look in reversed(oldest.looks)))
    carried = sum(slots <= most for slots in taken)
    return [replace(heir, carried=oldest.looks[len(taken) - carried :]), *rest]
