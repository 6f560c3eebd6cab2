"""Knows `POST /v1/chat/completions`: from a request to one answer, or to its pieces as they
come."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pocketvlm.server import wire
from pocketvlm.server.bodies import ClientGone, read_json
from pocketvlm.server.errors import Refusal, unavailable
from pocketvlm.server.messages import read_messages
from pocketvlm.server.process import Answering, refusal_in
from pocketvlm.server.responses import JSONAnswer, to_json
from pocketvlm.server.service import Service
from pocketvlm.server.settings import Settings, read_settings

_Result = TypeVar("_Result")
_PING = 15  # seconds between two comments that keep a silent stream open
# Streams continue so long when the server ends: they end by themselves before, see `running.GRACE`.
_ENDING = 30


@dataclass
class _Completion:
    """What all parts of one answer have in common, and what is known of it so far."""

    model: str
    fingerprint: str
    include_usage: bool
    began: float = field(default_factory=time.perf_counter)
    number: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, done: wire.Message) -> dict[str, Any]:
        """The answer in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": 0,
            "message": {**message, "pocketvlm": done["details"]},
            "logprobs": None,
            "finish_reason": done["finish_reason"],
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(done)}

    def chunk(
        self, delta: Mapping[str, Any], finish_reason: str | None = None, **further: Any
    ) -> str:
        """One piece of a stream."""
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return self._chunk({"choices": [choice], **further}, None)

    def usage_chunk(self, done: wire.Message) -> str:
        """The last piece of a stream that ends with what it took."""
        return self._chunk({"choices": []}, usage(done))

    def _chunk(self, body: Mapping[str, Any], used: Mapping[str, Any] | None) -> str:
        counted = {"usage": used} if self.include_usage else {}
        return to_json({**self._head("chat.completion.chunk"), **body, **counted}).decode()

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.number,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(done: wire.Message) -> dict[str, Any]:
    """The tokens of an answer, as OpenAI counts them; those of pictures are the prompt's."""
    prompt, completion = done["prompt_tokens"], done["completion_tokens"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": done["cached_tokens"]},
    }


async def complete(request: Request) -> Response:
    """Answer a request; raises `Refusal`."""
    service: Service = request.app.state.service
    service.queue.check()  # before anything is read
    body = await read_json(request, service.options.max_body)
    settings = read_settings(body, service.options.base)
    service.check_model(settings.model)
    read = read_messages(body, service.engine.facts.get("context"))
    completion = _Completion(service.options.name, service.fingerprint, settings.include_usage)
    asked = {"messages": read.messages, **_asked(settings)}
    answering = await _until_gone(request, _begin(service, asked, read.pictures))
    if settings.stream:
        return _Stream(_chunks(service, completion, answering), answering)
    try:
        text, done = await _until_gone(request, _read(service, completion, answering))
    finally:
        answering.cancel()
    return JSONAnswer(completion.whole(text, done))


def _asked(settings: Settings) -> dict[str, Any]:
    return {
        "sampling": settings.sampling,
        "max_tokens": settings.max_tokens,
        "budget": settings.budget,
        "vision_precision": settings.vision_precision,
        "decoder_precision": settings.decoder_precision,
    }


async def _begin(service: Service, asked: Mapping[str, Any], pictures: list[bytes]) -> Answering:
    """Wait for a place, ask, and wait until all that is refused at once has been checked."""
    await service.queue.enter()
    began = time.perf_counter()

    def ended() -> None:
        service.queue.leave(time.perf_counter() - began)

    try:
        answering = service.engine.ask(asked, pictures, ended)
    except BaseException:
        service.queue.leave()
        raise
    try:
        event = await answering.next()
        if refusal := refusal_in(event):
            raise refusal
        if event["kind"] != wire.BEGUN:
            raise unavailable("the answer was ended")
    except BaseException:
        answering.cancel()
        raise
    return answering


async def _read(
    service: Service, completion: _Completion, answering: Answering
) -> tuple[str, wire.Message]:
    """The whole text and the last event of an answer."""
    text = ""
    async for event in _events(service, completion, answering):
        if event["kind"] == wire.DONE:
            return text, event
        text += event["text"]
    raise unavailable("the answer was ended")


async def _events(
    service: Service, completion: _Completion, answering: Answering
) -> AsyncIterator[wire.Message]:
    """The texts of an answer and its end; raises `Refusal` where it has no good one.

    Models write a space before the first word, which belongs to none: it is left out.
    """
    begun = counted = False
    while True:
        event = await answering.next()
        if refusal := refusal_in(event):
            raise refusal
        if event["kind"] == wire.GONE:
            raise unavailable("the answer was ended, as the server ends")
        if not counted and event["kind"] == wire.TEXT:
            service.metrics.first_token(time.perf_counter() - completion.began)
            counted = True
        if not begun and event["kind"] == wire.TEXT:
            event = {**event, "text": event["text"].lstrip()}
            begun = bool(event["text"])
        if event["kind"] == wire.DONE:
            service.metrics.answered(event)
            yield event
            return
        if event["text"]:
            yield event


async def _chunks(
    service: Service, completion: _Completion, answering: Answering
) -> AsyncIterator[str]:
    """The data of each event of a stream."""
    yield completion.chunk({"role": "assistant", "content": ""})
    try:
        async for event in _events(service, completion, answering):
            if event["kind"] == wire.TEXT:
                yield completion.chunk({"content": event["text"]})
                continue
            yield completion.chunk({}, event["finish_reason"], pocketvlm=event["details"])
            if completion.include_usage:
                yield completion.usage_chunk(event)
            yield "[DONE]"
    except Refusal as refusal:  # the status has been sent long ago
        service.metrics.broken()
        yield json.dumps(refusal.to_dict())


class _Stream(EventSourceResponse):
    """Server-sent events that cancel their answer, however the connection ends."""

    def __init__(self, chunks: AsyncIterator[str], answering: Answering) -> None:
        super().__init__(
            chunks,
            sep="\n",
            ping=_PING,
            shutdown_grace_period=_ENDING,
        )
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.cancel()


async def _until_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """The result of ``work``, which is cancelled when the client goes; raises `ClientGone` then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return await task
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
