"""Knows how a context is filled to its last token, by one answer, by a conversation and by a
hundred pictures, and what becomes of the question after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pocketvlm import VLM, EngineSettings, Sampling
from pocketvlm.errors import RequestError

_QUESTION = "What is in the picture?"
_PICTURES = 100
_EXCHANGES = 12  # further ones, on a conversation that is full already


class Broken(Exception):
    """What was not as it should be."""


def fill(artifact: Path, engine: str, context: int | None = None) -> list[str]:
    """Fill the context in every way; returns what was done, a line each.

    Raises:
        Broken: something was answered otherwise than it should be.
    """
    vlm = VLM.load(artifact, decoder=engine, settings=EngineSettings(threads=1), context=context)
    return [by_one_answer(vlm), by_a_conversation(vlm), by_pictures(vlm)]


def by_one_answer(vlm: VLM) -> str:
    """An answer that takes every token that is left, then one that would take one more."""
    context, picture = vlm.parts.decoder.context, _picture(0)
    room = vlm.parts.room(vlm.prepare(_QUESTION, [picture]))
    answer = vlm.generate(_QUESTION, [picture], sampling=_exactly(room))
    _hold(answer.finish_reason == "length", f"it ended by {answer.finish_reason}")
    _hold(len(answer.token_ids) == room, f"{len(answer.token_ids)} of {room} tokens")
    _refused(lambda: vlm.generate(_QUESTION, [picture], sampling=_exactly(room + 1)))
    again = vlm.generate(_QUESTION, [picture], sampling=_exactly(room))
    _hold(again.token_ids == answer.token_ids, "another answer the second time")
    return f"one answer of {room} tokens fills {context}, one more is refused"


def by_a_conversation(vlm: VLM) -> str:
    """Questions until the context is full, and on: the oldest are dropped."""
    chat = vlm.chat()
    room = vlm.parts.room(vlm.prepare(_QUESTION, [_picture(0)]))
    first = chat.ask(_QUESTION, [_picture(0)], sampling=_exactly(room))
    _hold(len(first.token_ids) == room, "the first answer is shorter than the context")
    length = max(1, room // 3)
    for number in range(_EXCHANGES):
        images = [_picture(number)] if number % 3 == 0 else []
        answer = chat.ask(_QUESTION, images, sampling=_exactly(length))
        _hold(len(answer.token_ids) == length, f"answer {number} has {len(answer.token_ids)}")
    _hold(chat.dropped_turns > 0, "nothing was dropped")
    before = chat.messages
    _refused(lambda: chat.ask(_QUESTION, sampling=_exactly(room + vlm.parts.decoder.context)))
    _hold(chat.messages == before, "a refusal changed the conversation")
    chat.ask(_QUESTION, sampling=_exactly(1))
    return f"a conversation went on {_EXCHANGES} times, {chat.dropped_turns} exchanges dropped"


def by_pictures(vlm: VLM) -> str:
    """As many pictures as the context takes at one token each, up to a hundred, and too many."""
    several = [_picture(number % 7) for number in range(_PICTURES)]
    count = next((count for count in range(_PICTURES, 0, -1) if _fits(vlm, several[:count])), 0)
    answer = vlm.generate(_QUESTION, several[:count], budget=1, sampling=Sampling(max_new_tokens=4))
    _hold(answer.visual_tokens["after"] == count, f"{answer.visual_tokens} of {count} pictures")
    many = several * (1 + vlm.parts.decoder.context // (len(several) * vlm.budget))
    _refused(lambda: vlm.generate(_QUESTION, many))
    return f"{count} pictures in a prompt at a token each; {len(many)} at {vlm.budget} are refused"


def _fits(vlm: VLM, pictures: list[np.ndarray]) -> bool:
    try:
        vlm.prepare(_QUESTION, pictures, budget=1, sampling=Sampling(max_new_tokens=4))
    except RequestError:
        return False
    return True


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def _exactly(tokens: int) -> Sampling:
    return Sampling(max_new_tokens=tokens, min_new_tokens=tokens)


def _refused(ask: Callable[[], object]) -> None:
    try:
        ask()
    except RequestError as error:
        _hold("\n" not in str(error), f"a refusal of several lines: {error}")
        _hold("context" in str(error), f"a refusal that names no context: {error}")
        return
    raise Broken("nothing was refused")


def _hold(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise Broken(otherwise)
