"""Knows the fixed texts of a chat template around what people and the model write, for clients that
have no engine for templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pocketvlm.errors import RequestError
from pocketvlm.text.messages import Message
from pocketvlm.text.prompts import Prompter

# What blanks are filled with: a template is rendered with each, and the texts around must agree.
_FILLED = (
    ("Alpha", "beta", "gamma", "delta", "omega"),
    ("1 psi?", "2 chi", "3 phi!", "4 tau", "5 nu"),
)
_SYSTEM, _USER, _ASSISTANT = "system", "user", "assistant"


def prompt_pieces(prompter: Prompter, medium: str) -> dict[str, Any]:
    """The texts around the blanks of a prompt, taken from the template itself.

    Each is a list with one text more than there are blanks: ``[before, after]`` of a question.
    ``further`` lies around a question that is not the first: the texts between the question before
    and its answer, between that and this question, and after it. ``system`` has two blanks, the
    system's text and the first question. Those with ``picture`` in their names hold one image
    token. What a template refuses or writes in another way each time is left out, and ``notes``
    says so.

    Args:
        prompter: chat template and tokenizer of the artifact.
        medium: ``image`` or ``video``, the type of a part of a message.
    """
    notes: list[str] = []
    pieces: dict[str, Any] = {}
    for name, roles, note in (
        ("question", (_USER,), "a question without a picture"),
        ("system", (_SYSTEM, _USER), "a system text"),
    ):
        for suffix, pictured in (("", None), ("_picture", medium)):
            if around := _around(prompter, roles, pictured):
                pieces[f"{name}{suffix}"] = around
            elif not suffix or name == _USER:
                notes.append(f"The template does not take {note} in a fixed way.")
    further = _further(prompter, medium, pieces)
    if further:
        pieces["further"] = further
    else:
        notes.append("The template does not write further turns in a fixed way.")
    return {**pieces, "trims": _trims(prompter), "notes": notes}


def _further(prompter: Prompter, medium: str, pieces: dict[str, Any]) -> list[str] | None:
    """The texts around a further question; None where they differ from turn to turn."""
    turns = (_USER, _ASSISTANT, _USER)
    first = pieces.get("question_picture") or pieces.get("question")
    pictured = medium if "question_picture" in pieces else None
    two = _around(prompter, turns, pictured)
    three = _around(prompter, (*turns, _ASSISTANT, _USER), pictured)
    if first is None or two is None or three is None:
        return None
    again = [*two[:-1], *two[1:]]
    return two[1:] if two[0] == first[0] and three == again else None


def _around(prompter: Prompter, roles: Sequence[str], pictured: str | None) -> list[str] | None:
    """The texts around one blank for each role; None where they depend on what fills it."""
    rendered = [
        _cut(prompter, lambda words: _messages(roles, words, pictured), words[: len(roles)])
        for words in _FILLED
    ]
    return rendered[0] if rendered[0] == rendered[1] else None


def _messages(roles: Sequence[str], words: Sequence[str], pictured: str | None) -> list[Message]:
    """A conversation; the first question has the picture in front of it."""
    messages: list[Message] = []
    first = roles.index(_USER)
    for number, (role, word) in enumerate(zip(roles, words, strict=True)):
        picture: list[dict[str, str]] = [{"type": pictured}] if pictured and number == first else []
        messages.append({"role": role, "content": [*picture, {"type": "text", "text": word}]})
    return messages


def _cut(
    prompter: Prompter, messages: Callable[[Sequence[str]], list[Message]], words: Sequence[str]
) -> list[str] | None:
    try:
        text = prompter.written(messages(words))
    except RequestError:
        return None
    around = []
    for word in words:
        if text.count(word) != 1:
            return None
        before, _, text = text.partition(word)
        around.append(before)
    return [*around, text]


def _trims(prompter: Prompter) -> bool:
    """Whether the template takes spaces off the ends of what people write."""
    message = {"role": _USER, "content": [{"type": "text", "text": "  Alpha  "}]}
    try:
        return "  Alpha  " not in prompter.written([message])
    except RequestError:
        return False
