"""Knows an engine whose answers are written down beforehand, and how a server is asked without a
socket."""

import asyncio
import base64
import io
import json

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from pocketvlm.server.app import make_app
from pocketvlm.server.errors import unavailable
from pocketvlm.server.process import Answering
from pocketvlm.server.service import ServerOptions

BASE = "http://127.0.0.1:8080"
PATH = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "what?"}]}
DETAILS = {"budget": 6, "kept": [], "timings": {"ttft": 1.0}}
BEGUN = {"kind": "begun"}
DONE = {
    "kind": "done",
    "finish_reason": "stop",
    "prompt_tokens": 7,
    "cached_tokens": 2,
    "completion_tokens": 3,
    "details": DETAILS,
}
DIED = {"kind": "refused", "died": True}


def text(words):
    return {"kind": "text", "text": words}


class ScriptedEngine:
    """Gives every request the same events; what else an answer gets, a test puts into it."""

    def __init__(self, *events, state="ready"):
        self.events = events
        self.state = state
        self.facts = {"artifact_id": "0123456789abcdef", "budget": 6}
        self.restarts = 0
        self.asked = []
        self.answers = []
        self.cancelled = []

    def ask(self, asked, pictures, ended):
        if self.state != "ready":
            raise unavailable(f"the model is not ready: {self.state}")
        number = len(self.answers)

        def cancel():
            self.cancelled.append(number)
            answering.put({"kind": "gone"})

        answering = Answering(cancel, ended)
        self.asked.append((asked, list(pictures)))
        self.answers.append(answering)
        for event in self.events:
            answering.put(event)
        return answering


def client_of(engine, **options):
    """A client of a server with these options; to be entered, so that all its requests share one
    event loop."""
    return TestClient(make_app(ServerOptions(**options), engine), base_url=BASE)


def asked(content, **further):
    """A request with one message of the user's."""
    return {"messages": [{"role": "user", "content": content}], **further}


def data_uri(seed=0, kind="PNG", size=(40, 30)):
    """A picture of noise as a data: URI."""
    data = base64.b64encode(picture(seed, kind, size)).decode()
    return f"data:image/{kind.lower()};base64,{data}"


def picture(seed=0, kind="PNG", size=(40, 30)):
    """The file of a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def image_part(uri):
    return {"type": "image_url", "image_url": {"url": uri}}


def text_part(words):
    return {"type": "text", "text": words}


def events_of(body):
    """The objects in the body of a stream; the last line must be [DONE]."""
    *events, end, nothing = body.decode().split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def exchange(app, body, *, gone=None, headers=()):
    """Ask an application itself; returns its status and the parts of its body.

    ``gone`` is an event after which the client is not there any more.
    """
    sent, status = [], []
    incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if incoming:
            return incoming.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            status.append(message["status"])
        elif message.get("body"):
            sent.append(message["body"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    await app(scope, receive, send)
    return (status or [None])[0], sent
