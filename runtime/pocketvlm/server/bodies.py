"""Knows how the body of a request is read: never more than is allowed, never for longer, and no
JSON that would grow in memory."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from pocketvlm.server.errors import Refusal, bad_request

SECONDS = 60.0  # that a body may take to arrive
_DEEPEST = 64  # lists and objects within each other
# Values and keys in all. Each takes some 60 bytes once it is read, however short it was.
_MOST_VALUES = 200_000
_LONG = 1 << 20  # bytes that are read in another thread


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def read_json(request: Request, most: int) -> Mapping[str, Any]:
    """The JSON object that a request holds.

    Args:
        request: of which nothing was read yet.
        most: bytes that it may have.

    Raises:
        Refusal: another content type, too many bytes, too slow, or no such object.
        ClientGone: the client went before its request was whole.
    """
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise Refusal(415, "the content type must be application/json", code="unsupported_media")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "the body must not be compressed", code="unsupported_media")
    try:
        async with asyncio.timeout(SECONDS):
            body = await _read(request, most)
    except TimeoutError as error:
        raise Refusal(
            408, f"the request did not arrive within {SECONDS:g} s", code="timeout"
        ) from error
    except ClientDisconnect as error:
        raise ClientGone from error
    if len(body) < _LONG:
        return parse_object(body)
    return await run_in_threadpool(parse_object, body)


async def _read(request: Request, most: int) -> bytearray:
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated[:20]) > most:
        raise _too_large(most)
    body = bytearray()  # a list would cost an object for each part, and parts may be single bytes
    async for part in request.stream():
        if len(body) + len(part) > most:
            raise _too_large(most)
        body += part
    return body


def parse_object(body: bytes | bytearray) -> Mapping[str, Any]:
    """Read a JSON object of bounded depth and number of values; raises `Refusal` for anything
    else."""
    values = sum(map(body.count, (b",", b":", b"[", b"{")))
    if values > _MOST_VALUES:
        raise bad_request(f"the request has more than {_MOST_VALUES} values", code="too_large")
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        reason = str(error).splitlines()[0][:100]
        raise bad_request(f"the body is not valid JSON ({reason})", code="invalid_json") from error
    if not isinstance(data, dict):
        raise bad_request("the body must be a JSON object", code="invalid_json")
    _check_depth(data)
    return data


def _check_depth(data: Any) -> None:
    level, depth = [data], 0
    while level:
        if (depth := depth + 1) > _DEEPEST:
            raise _too_deep()
        level = [
            value
            for each in level
            for value in (each.values() if isinstance(each, dict) else each)
            if isinstance(value, (dict, list))
        ]


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is beyond all numbers")
    return number


def _too_deep() -> Refusal:
    return bad_request(
        f"the request has more than {_DEEPEST} lists and objects within each other",
        code="too_deep",
    )


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the request has more than {most} bytes", code="too_large")
