"""Knows how answers and refusals are written: JSON that any text fits into, and errors as OpenAI's
object."""

from __future__ import annotations

import json
import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pocketvlm.server.errors import Refusal

_log = logging.getLogger(__name__)


def to_json(data: Any) -> bytes:
    """JSON in UTF-8; halves of characters, which have no UTF-8, are escaped."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class JSONAnswer(JSONResponse):
    """A response of `to_json`, which no cache keeps."""

    def __init__(
        self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, {"Cache-Control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        """See `to_json`."""
        return to_json(content)


def refused(refusal: Refusal) -> Response:
    """The response that a refusal is."""
    return JSONAnswer(refusal.to_dict(), refusal.status, refusal.headers)


async def on_refusal(_request: Request, error: Exception) -> Response:
    """For ``exception_handlers``: of `Refusal`."""
    assert isinstance(error, Refusal)
    return refused(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """For ``exception_handlers``: of what the routes refuse, 404 and 405."""
    assert isinstance(error, HTTPException)
    words = {404: "nothing is served here", 405: f"{request.method} is not served here"}
    refusal = Refusal(error.status_code, words.get(error.status_code, error.detail))
    response = refused(refusal)
    response.headers.update(error.headers or {})
    return response


async def on_gone(_request: Request, _error: Exception) -> Response:
    """For ``exception_handlers``: of `ClientGone`. Nobody reads it."""
    return Response(status_code=499)
