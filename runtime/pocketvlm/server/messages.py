"""Knows OpenAI's messages: which become ours, with the pictures taken out, and which are
refused."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.server.errors import CONTEXT_CODE, PICTURE_CODE, Refusal, bad_request

MOST_MESSAGES = 1000
MOST_PICTURES = 32
# Of all texts, for each token that the context holds. Published vocabularies have 4 to 5 a token,
# and a tokenizer cannot be stopped once it reads: more would keep it busy for minutes.
CHARACTERS_PER_TOKEN = 32
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# "data:" [type] *(";" parameter) ";base64," data; RFC 2397
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]*)*);base64,", re.ASCII)
_LONGEST_HEAD = 200  # characters before the data
_UNSERVED_PARTS = {
    "input_audio": "audio is not served",
    "file": "files are not served",
    "video_url": "clips are not served",
}


@dataclass
class Read:
    """A conversation as `pocketvlm.VLM.generate` takes it, but for its pictures.

    Attributes:
        messages: with ``{"type": "image", "image": n}`` for picture n.
        pictures: their files.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)


def read_messages(body: Mapping[str, Any], context: int | None = None) -> Read:
    """Read ``messages`` of a request; raises `Refusal`, which names the message and the part.

    Texts that no ``context`` of so many tokens holds are refused before they are tokenized.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _refusal("messages", "must be a list of at least one message")
    if len(messages) > MOST_MESSAGES:
        raise _refusal("messages", f"may be {MOST_MESSAGES} at most")
    read = Read()
    for number, message in enumerate(messages):
        _read_message(message, f"messages[{number}]", read)
    if read.messages[-1]["role"] != "user":
        raise _refusal(f"messages[{len(messages) - 1}]", "is the last, and must be the user's")
    if context is not None:
        _check_length(read, context)
    return read


def _check_length(read: Read, context: int) -> None:
    parts = (part for message in read.messages for part in message["content"])
    length = sum(len(part.get("text", "")) for part in parts)
    if length > CHARACTERS_PER_TOKEN * context:
        words = f"have {length} characters, more than the context of {context} tokens holds"
        raise _refusal("messages", words, CONTEXT_CODE)


def _read_message(message: Any, name: str, read: Read) -> None:
    if not isinstance(message, Mapping):
        raise _refusal(name, "must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _refusal(f"{name}.role", f"must be one of {', '.join(_ROLES)}")
    for key in ("tool_calls", "function_call", "audio"):
        if message.get(key):
            raise _refusal(f"{name}.{key}", "is not served")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise _refusal(f"{name}.content", "must be a text or a list of parts")
    parts = [
        _read_part(part, f"{name}.content[{number}]", role, read)
        for number, part in enumerate(content)
    ]
    read.messages.append({"role": _ROLES[role], "content": parts})


def _read_part(part: Any, name: str, role: str, read: Read) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise _refusal(name, "must be an object with a type")
    if kind in ("text", "refusal"):
        text = part.get(kind)
        if not isinstance(text, str):
            raise _refusal(f"{name}.{kind}", "must be a text")
        return {"type": "text", "text": text}
    if kind != "image_url":
        words = _UNSERVED_PARTS.get(kind, "must be of the type text or image_url")
        raise _refusal(name, words)
    if role != "user":
        raise _refusal(name, "is a picture, and those are the user's to give")
    if len(read.pictures) == MOST_PICTURES:
        raise _refusal(name, f"is one picture too many: {MOST_PICTURES} are read")
    read.pictures.append(_picture(part.get("image_url"), f"{name}.image_url"))
    return {"type": "image", "image": len(read.pictures) - 1}


def _picture(given: Any, name: str) -> bytes:
    """The file in an ``image_url``, an object with a ``url`` or, as some clients send it, a
    text."""
    url = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(url, str):
        raise _refusal(f"{name}.url", "must be a data: URI")
    if re.match(r"(?i:https?|ftp|file):", url[:10]):
        raise _refusal(
            f"{name}.url",
            "is an address, and nothing is fetched: send the picture itself as a data: URI",
        )
    head = _DATA_URI.match(url[:_LONGEST_HEAD])
    if head is None:
        raise _refusal(f"{name}.url", "must be a data: URI, as in data:image/png;base64,...")
    if head[1] and not head[1].lower().startswith(("image/", "application/octet-stream")):
        raise _refusal(f"{name}.url", f"is of the type {head[1]}, and must be a picture")
    try:
        picture = base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _refusal(f"{name}.url", "is not valid base64", PICTURE_CODE) from error
    if not picture:
        raise _refusal(f"{name}.url", "is an empty picture", PICTURE_CODE)
    return picture


def _refusal(name: str, words: str, code: str = "invalid_value") -> Refusal:
    return bad_request(f"{name} {words}", name, code)
