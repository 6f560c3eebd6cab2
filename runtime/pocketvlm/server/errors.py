"""Knows OpenAI's error object: which status, type, parameter and code each refusal has there."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from pocketvlm.errors import PictureError, PocketVLMError, RequestError, error_from_dict
from pocketvlm_targets.text import one_line

_log = logging.getLogger(__name__)

CONTEXT_CODE = "context_length_exceeded"
PICTURE_CODE = "invalid_image"
# Settings of ours that a request has under another name.
_PARAMS = {
    "max_new_tokens": "max_tokens",
    "context": "messages",
    "images": "messages",
    "prompt": "messages",
    "videos": "messages",
    "system": "messages",
    "guide": "model",
    "json_schema": "response_format",
}
_TYPES = {429: "rate_limit_error"}


class Refusal(Exception):
    """A request that gets an error in place of an answer.

    Attributes:
        status: of HTTP.
        message: one line for people.
        param: the key of the request that it is about; None where it is none.
        code: a word for programs; None where the status says it all.
        retry_after: seconds after which asking again may help; None where it does not.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        message = one_line(message)  # which may quote names of the request
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """What belongs into the header of the response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def bad_request(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A request that cannot be served as it is."""
    return Refusal(400, message, param=param, code=code)


def unavailable(message: str, retry_after: int = 2) -> Refusal:
    """The model cannot answer now, and may soon."""
    return Refusal(503, message, code="model_unavailable", retry_after=retry_after)


def internal(reference: str) -> Refusal:
    """A fault of ours: what happened is in the server's log under ``reference``, and stays
    there."""
    return Refusal(
        500, f"the server failed; its log has the reason under {reference}", code="internal_error"
    )


def new_reference() -> str:
    """What a fault is found by in the log."""
    return secrets.token_hex(6)


def refusal_of(data: Mapping[str, str]) -> Refusal:
    """The refusal that a `PocketVLMError` becomes, as the model's process wrote it down.

    What is about the request is a 400 in the error's own words. The rest may name files of this
    machine: it goes to the log.
    """
    error = error_from_dict(data)
    if isinstance(error, PictureError):
        return bad_request(str(error), "messages", PICTURE_CODE)
    if isinstance(error, RequestError):
        code = CONTEXT_CODE if error.setting == "context" else None
        return bad_request(str(error), _PARAMS.get(error.setting, error.setting) or None, code)
    return _logged(error)


def _logged(error: PocketVLMError) -> Refusal:
    reference = new_reference()
    _log.error("%s: %s", reference, error)
    return internal(reference)
