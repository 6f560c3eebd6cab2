"""Knows conversations as programs give them: what is refused, what a chat template gets, and which
pictures or clips they hold."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pocketvlm.errors import RequestError
from pocketvlm.layouts import MEDIA, Medium
from pocketvlm.media.pictures import Picture
from pocketvlm.media.videos import Video

# As chat templates read it: {"role": ..., "content": [parts]}, pictures as {"type": "image"}.
Message = Mapping[str, Any]
# What people type where a picture belongs, or a clip.
PLACEHOLDERS: Mapping[Medium, str] = {"image": "<image>", "video": "<video>"}
# What several of them are called.
PLURALS: Mapping[Medium, str] = {"image": "pictures", "video": "clips"}

_ROLES = ("system", "user", "assistant")
_ONE_PICTURE = (str, bytes, os.PathLike, Image.Image, np.ndarray)
_ONE_CLIP = (str, bytes, os.PathLike)


@dataclass(frozen=True)
class _PartType:
    """A part is ``{"type": name, key: value}``; ``medium`` is None where it is text."""

    key: str
    classes: tuple[type, ...]
    expected: str
    medium: Medium | None = None

    def takes(self, value: Any) -> bool:
        return isinstance(value, self.classes)


_PART_TYPES: Mapping[str, _PartType] = {
    "text": _PartType("text", (str,), "a text"),
    "image": _PartType("image", _ONE_PICTURE, "a path, bytes, a PIL image or an array", "image"),
    "video": _PartType("video", (*_ONE_CLIP, list, tuple), "a path, bytes or frames", "video"),
}
# Of other programs' messages, with the part to give in their place.
_ELSEWHERE: Mapping[str, Medium] = {
    "image_url": "image",
    "input_image": "image",
    "image_base64": "image",
    "video_url": "video",
    "input_video": "video",
}


@dataclass(frozen=True)
class Conversation:
    """Messages for a chat template, and what fills the places of pictures or clips in them.

    Attributes:
        messages: as ``processor.apply_chat_template`` of transformers passes them on: each content
            a list of parts in their order, pictures as ``{"type": "image"}`` without pixels.
        media: pictures, and clips where the model reads those; of each kind in the order of their
            places.
        kinds: which of both each of them is.
    """

    messages: list[Message]
    media: list[Picture | Video]
    kinds: list[Medium]


class MessageReader:
    """Reads messages for a model that reads pictures, or clips, or both.

    Text is text: an image token spelt out in it would add a picture that nobody gave. So it is
    refused, and ``<image>`` with it, which places a picture in a prompt but not here. From answers,
    which are given back as a model wrote them, the image token is taken out.

    Args:
        tokens: what the model reads, each with what the template writes in its place.
        *others: further texts of such a place.
    """

    def __init__(self, tokens: Mapping[Medium, str], *others: str) -> None:
        self._tokens = dict(tokens)
        self._spelt = sorted({*tokens.values(), *others})
        places = {PLACEHOLDERS["image"], *(PLACEHOLDERS[medium] for medium in tokens)}
        self._reserved = sorted(places | set(self._spelt))

    def read(self, messages: Sequence[Message]) -> Conversation:
        """Check a conversation and take its pictures or clips out.

        Args:
            messages: ``{"role": "system" | "user" | "assistant", "content": ...}``, the last from
                the user. A content is a text, or a list of ``{"type": "text", "text": ...}``,
                ``{"type": "image", "image": PICTURE}`` and ``{"type": "video", "video": CLIP}``.

        Raises:
            RequestError: anything else; it names the message and the part, counted from 1.
        """
        if not isinstance(messages, (list, tuple)):
            raise _refusal(f"messages is {_of_type(messages)}", "a list of messages")
        if not messages:
            raise _refusal("messages is empty", "at least one message, from the user")
        media: list[tuple[Medium, Picture | Video]] = []
        read = [
            self._message(message, f"message {number}", media)
            for number, message in enumerate(messages, 1)
        ]
        if read[-1]["role"] != "user":
            raise _refusal(
                f"message {len(read)}, the last, has the role {read[-1]['role']}", "user"
            )
        return Conversation(read, [value for _, value in media], [kind for kind, _ in media])

    def system(self, text: Any) -> Message:
        """What comes before the first question of a conversation, as a message.

        Raises:
            RequestError: no text, or one that spells out a picture's place.
        """
        if not isinstance(text, str):
            raise RequestError(
                f"the system message is {_of_type(text)}", expected="a text", setting="system"
            )
        if token := self._place_in(text):
            raise RequestError(
                f"the system message has {token} in its text",
                expected="words alone",
                advice=f"give {named(self._tokens)} with a question",
                setting="system",
            )
        return {"role": "system", "content": [{"type": "text", "text": text}]}

    def reply(self, text: str) -> str:
        """An answer as text alone: an image token that the model spelt out is not a picture."""
        while spelt := [token for token in self._spelt if token in text]:
            for token in spelt:  # what is left may add up to another
                text = text.replace(token, "")
        return text

    def _message(
        self, message: Any, name: str, media: list[tuple[Medium, Picture | Video]]
    ) -> Message:
        if not isinstance(message, Mapping):
            raise _refusal(f"{name} is {_of_type(message)}", 'a dict with "role" and "content"')
        _check_keys(message, name, ("role", "content"))
        role, content = message["role"], message["content"]
        if role not in _ROLES:
            raise _refusal(f"{name} has the role {_brief(role)}", f"one of {', '.join(_ROLES)}")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, (list, tuple)):
            raise _refusal(
                f"the content of {name} is {_of_type(content)}", "a text or a list of parts"
            )
        if not parts:
            raise _refusal(f"{name} is empty", "a text or a list of parts")
        is_plain = isinstance(content, str)
        read = [
            self._part(part, name if is_plain else f"{name}, part {number}", role, media)
            for number, part in enumerate(parts, 1)
        ]
        return {"role": role, "content": read}

    def _part(
        self, part: Any, name: str, role: str, media: list[tuple[Medium, Picture | Video]]
    ) -> Mapping[str, str]:
        if not isinstance(part, Mapping):
            raise _refusal(f"{name} is {_of_type(part)}", 'a dict with "type"')
        kind = part.get("type")
        part_type = _PART_TYPES.get(kind) if isinstance(kind, str) else None
        if part_type is None:
            raise _unknown_part(kind, name)
        _check_keys(part, name, ("type", part_type.key), _example(part_type.medium))
        value = part[part_type.key]
        if not part_type.takes(value):
            raise _refusal(f"the {kind} of {name} is {_of_type(value)}", part_type.expected)
        if part_type.medium is None:
            return {"type": "text", "text": self._text(value, name, role)}
        if part_type.medium not in self._tokens:
            raise _refusal(
                f"{name} is of the type {kind}",
                f"{named(self._tokens)}, which this model reads",
                _example(next(iter(self._tokens))),
            )
        media.append((part_type.medium, value))
        return {"type": part_type.medium}

    def _text(self, text: str, name: str, role: str) -> str:
        if role == "assistant":
            return self.reply(text)
        if token := self._place_in(text):
            raise _refusal(
                f"{name} has {token} in its text",
                f"{named(self._tokens)} as parts of their own",
                _example(next(iter(self._tokens))),
            )
        return text

    def _place_in(self, text: str) -> str | None:
        """The first of the texts for a picture's place that is in it."""
        return next((token for token in self._reserved if token in text), None)


def named(media: Iterable[Medium]) -> str:
    """What several of these are called, as in "pictures and clips"."""
    return " and ".join(PLURALS[medium] for medium in MEDIA if medium in set(media))


def media_of(
    images: Sequence[Picture] | None, videos: Sequence[Video] | None, read: Collection[Medium]
) -> list[tuple[Medium, Picture | Video]]:
    """The pictures, then the clips, that come beside a prompt, for a model that reads ``read``.

    Raises:
        RequestError: one that is not in a list, or a kind that the model does not read.
    """
    if isinstance(images, _ONE_PICTURE):
        raise RequestError(
            "images is a single picture", advice="give a list of pictures", setting="images"
        )
    if isinstance(videos, _ONE_CLIP):
        raise RequestError(
            "videos is a single clip", advice="give a list of clips", setting="videos"
        )
    for setting, given in (("images", images), ("videos", videos)):
        if given is not None and not isinstance(given, Iterable):
            raise RequestError(
                f"{setting} is {_of_type(given)}", expected="a list", setting=setting
            )
    check_media(read, pictures=bool(images), clips=bool(videos))
    media: list[tuple[Medium, Picture | Video]] = [("image", image) for image in images or ()]
    return media + [("video", video) for video in videos or ()]


def check_media(read: Collection[Medium], *, pictures: bool = False, clips: bool = False) -> None:
    """Raise `RequestError` where pictures are given to a model that reads clips alone, or clips to
    one that reads pictures; ``read`` is what it reads."""
    if pictures and "image" not in read:
        raise RequestError(
            "this artifact answers questions about clips, not pictures",
            advice="give videos (--video) instead",
            setting="images",
        )
    if clips and "video" not in read:
        raise RequestError(
            "this artifact answers questions about pictures, not clips",
            advice="give images (--image) instead",
            setting="videos",
        )


def _unknown_part(kind: Any, name: str) -> RequestError:
    if isinstance(kind, str) and kind in _ELSEWHERE:
        return _refusal(
            f"{name} is of the type {kind}",
            f"the {_ELSEWHERE[kind]} itself, as nothing is fetched",
            f"{_example(_ELSEWHERE[kind])} with its bytes or a path",
        )
    return _refusal(f"{name} is of the type {_brief(kind)}", f"one of {', '.join(_PART_TYPES)}")


def _check_keys(given: Mapping[Any, Any], name: str, keys: Iterable[str], advice: str = "") -> None:
    """What is not read is refused, so that no setting is left out without a word."""
    keys = tuple(keys)
    missing = [key for key in keys if key not in given]
    others = [key for key in given if key not in keys]
    expected = " and ".join(f'"{key}"' for key in keys)
    if missing:
        raise _refusal(f'{name} has no "{missing[0]}"', expected, advice)
    if others:
        raise _refusal(f"{name} has {_brief(others[0])}", f"only {expected}")


def _example(medium: Medium | None) -> str:
    if medium is None:
        return 'give {"type": "text", "text": ...}'
    return f'give {{"type": "{medium}", "{medium}": ...}}'


def _of_type(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _brief(value: Any) -> str:
    return repr(value)[:40]


def _refusal(found: str, expected: str, advice: str = "") -> RequestError:
    return RequestError(found, expected=expected, advice=advice, setting="messages")
