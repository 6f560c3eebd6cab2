"""Knows a conversation: questions, pictures and answers so far, what of them fits the context, and
what is dropped."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pocketvlm.answer import Answer
from pocketvlm.answering import Answerer, Request, ms_since
from pocketvlm.decoders.pool import ConversationCache
from pocketvlm.decoders.sampling import GREEDY, Sampling, check_sampling
from pocketvlm.layouts import Medium
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video
from pocketvlm.text.messages import Message
from pocketvlm.text.streaming import Stream
from pocketvlm.vision.viewer import ConversationPicture, PictureInput


@dataclass(frozen=True)
class _Exchange:
    """A question with its pictures and its answer.

    Attributes:
        question: as typed.
        pictures: its own.
        answer: None while it is being answered.
        carried: pictures of dropped exchanges.
    """

    question: str
    pictures: tuple[ConversationPicture, ...]
    answer: str | None = None
    carried: tuple[ConversationPicture, ...] = ()

    @property
    def all_pictures(self) -> tuple[ConversationPicture, ...]:
        return self.carried + self.pictures


class Chat:
    """A conversation about pictures, from `pocketvlm.VLM.chat`.

    >>> from pocketvlm import VLM
    >>> chat = VLM.load("demo-vlm").chat()
    >>> chat.ask("How many objects are there?", images=["examples/scene-3.png"]).text
    ' three'
    >>> chat.ask("What colour is the circle?").prompt_tokens  # most of them are in the KV cache
    {'total': 62, 'cached': 50}
    >>> [message["role"] for message in chat.messages]
    ['user', 'assistant', 'user', 'assistant']

    The prompt of every answer is the whole conversation, as the chat template renders it. Each
    conversation has its own KV cache, so only the new part is computed. It begins with what other
    answers of the model have left, see `SequenceLimits`. No picture is encoded twice, with one
    exception.

    Some models read a picture differently when it is the only one (`Layout.several`). Their
    pictures are encoded once more when a second one joins the first, or when all but one are
    dropped. The prompt is then prefilled again from the first picture on, as transformers does each
    time.

    If the method reads the prompt, each question keeps its own tokens of every picture. The tower's
    work is in the feature cache. The prompt is prefilled again from the first picture whose kept
    tokens changed (`Answer.pictures_selected_anew`).

    **When the context is full** the oldest questions are dropped with their answers. The rest then
    takes at most three quarters of the context, so that not every answer must drop again. Pictures
    stay: the latest of them, as many as fit in half of the context, move to the oldest remaining
    question. What is dropped for an answer is gone for good. A question that does not fit even
    alone is refused and changes nothing.

    An answer that is stopped early stays in the conversation; one that failed does not. Of two
    answers begun from the same point, the one that ends first stays.

    Conversations of one `pocketvlm.VLM` do not disturb each other. One that is idle while many
    others are answered may lose its cache to `SequenceLimits`, which costs a longer prefill. In
    float32 the answers are the same. int8 decoders measure the activations of each run, so logits
    differ a little by how a prompt was divided.

    A conversation is used by one thread at a time.
    """

    def __init__(
        self, answerer: Answerer, budget: int, system: str | None = None, *, reuses: bool = False
    ) -> None:
        self._answerer = answerer
        self._reuses = reuses
        self._budget = budget
        self._system = system
        self._cache = ConversationCache()
        self._exchanges: list[_Exchange] = []
        self.dropped_turns = 0

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, in the form that chat templates read."""
        return self._messages(self._exchanges)

    def ask(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        *,
        videos: Sequence[Video] | None = None,
        sampling: Sampling = GREEDY,
    ) -> Answer:
        """Ask the next question, with its own pictures or clips or about earlier ones; see
        `VLM.generate`."""
        return self.stream(prompt, images, videos=videos, sampling=sampling).answer

    def stream(
        self,
        prompt: str,
        images: Sequence[Picture] | None = None,
        *,
        videos: Sequence[Video] | None = None,
        sampling: Sampling = GREEDY,
    ) -> Stream:
        """As `ask`, in text pieces: iterate, then read ``.answer``. Refusals are raised by this
        call, not while iterating."""
        check_sampling(sampling)
        self._answerer.pool.check_open()
        started, before = time.perf_counter(), self._exchanges
        asked = self._answerer.prompter.conversation(prompt, images, videos)
        pictures = tuple(
            self._answerer.viewer.prepare_conversation(asked.media, self._budget, asked.kinds)
        )
        exchanges, ids = self._fit([*before, _Exchange(prompt, pictures)], sampling)
        request = Request(
            ids,
            self._in_order(ids, exchanges),
            sampling,
            ms_since(started),
            cached=True,
            conversation=self._cache,
            reused=self._reuses,
            question=self._answerer.question(self._messages(exchanges[-1:])[-1]),
        )
        answer = self._answerer.begin(request)
        return Stream(self._record(answer, before, exchanges), answer.stop)

    def reset(self) -> None:
        """Forget the conversation and free its KV cache; features of pictures stay in their
        cache."""
        self._exchanges = []
        self.dropped_turns = 0
        self._answerer.forget(self._cache)

    def _record(
        self, answer: Stream, before: list[_Exchange], exchanges: list[_Exchange]
    ) -> Generator[str, None, Answer]:
        """Pass the answer on, and add it to the conversation once it ends or is left."""
        text = ""
        try:
            for piece in answer:
                text += piece
                yield piece
        except GeneratorExit:
            answer.close()
            if text:
                self._add(before, exchanges, text)
            raise
        self._add(before, exchanges, answer.answer.text)
        return answer.answer

    def _add(self, before: list[_Exchange], exchanges: list[_Exchange], text: str) -> None:
        # Not where it was reset, or another question has been answered meanwhile.
        if self._exchanges is before:
            self._exchanges = [*exchanges[:-1], replace(exchanges[-1], answer=text)]
            self.dropped_turns += len(before) + 1 - len(exchanges)

    def _messages(self, exchanges: Sequence[_Exchange]) -> list[Message]:
        prompter = self._answerer.prompter
        messages = [] if self._system is None else [prompter.system(self._system)]
        for exchange in exchanges:
            messages += prompter.messages(
                exchange.question, _counts(exchange.pictures), carried=_counts(exchange.carried)
            )
            if exchange.answer is not None:
                messages.append(prompter.reply(exchange.answer))
        return messages

    def _ids(self, exchanges: Sequence[_Exchange]) -> tuple[npt.NDArray[np.int64], int]:
        """Their ids with an image token for each picture, and how many there are once all are
        placed."""
        prompter = self._answerer.prompter
        given = [picture for exchange in exchanges for picture in exchange.all_pictures]
        ids = prompter.encode_messages(self._messages(exchanges), _counts(given))
        pictures = self._in_order(ids, exchanges)
        return ids, len(prompter.place(ids, [picture.ids for picture in pictures]))

    def _in_order(
        self, ids: npt.NDArray[np.int64], exchanges: Sequence[_Exchange]
    ) -> list[PictureInput]:
        """All pictures and clips as the ids have them one after the other."""
        pictures = _pictures(exchanges)
        kinds = [picture.layout.medium for picture in pictures]
        return [pictures[number] for number in self._answerer.prompter.in_order(ids, kinds)]

    def _fit(
        self, exchanges: list[_Exchange], sampling: Sampling
    ) -> tuple[list[_Exchange], npt.NDArray[np.int64]]:
        """The exchanges that stay, by the rule above, and their ids with an image token for each
        picture."""
        context = self._answerer.decoder.context
        room = context - (sampling.max_new_tokens - 1)
        ids, length = self._ids(exchanges)
        if length > room:
            while len(exchanges) > 1 and length > room * 3 // 4:
                exchanges = _without_oldest(exchanges, most=context // 2)
                ids, length = self._ids(exchanges)
            while length > room and exchanges[0].carried:
                fewer = replace(exchanges[0], carried=exchanges[0].carried[1:])
                exchanges = [fewer, *exchanges[1:]]
                ids, length = self._ids(exchanges)
            self._answerer.check_room(length, sampling)
        return exchanges, ids


def _pictures(exchanges: Sequence[_Exchange]) -> list[PictureInput]:
    """The pictures of a conversation, each as it is among the others."""
    pictures = [picture for exchange in exchanges for picture in exchange.all_pictures]
    counts = _counts(pictures)
    return [picture.among(counts[picture.medium]) for picture in pictures]


def _counts(pictures: Sequence[ConversationPicture]) -> Mapping[Medium, int]:
    """How many pictures they are, and how many clips."""
    return Counter(picture.medium for picture in pictures)


def _without_oldest(exchanges: list[_Exchange], most: int) -> list[_Exchange]:
    """One exchange fewer; the latest of its pictures, of ``most`` visual tokens at most, go to the
    front of the next."""
    oldest, heir, *rest = exchanges
    pictures = oldest.all_pictures
    counts = _counts([picture for exchange in exchanges for picture in exchange.all_pictures])
    slots = (picture.among(counts[picture.medium]).slots for picture in reversed(pictures))
    totals = itertools.accumulate(slots)
    carried = sum(total <= most for total in totals)
    return [replace(heir, carried=pictures[len(pictures) - carried :]), *rest]
