"""Requests to `pocketvlm serve`, through the application itself."""

import asyncio
import json
import threading
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from fuzz.base import OUTSIDE, Target, put
from fuzz.byte_changes import damaged
from fuzz.drawn import Drawn
from fuzz.json_changes import TEXTS, changed, written
from pocketvlm import VLM, EngineSettings
from pocketvlm.server.answers import answer_events
from pocketvlm.server.app import make_app
from pocketvlm.server.service import ServerOptions
from support.serving import BEGUN, DONE, ScriptedEngine, data_uri, text
from support.tiny_artifact import write_artifact

_PATHS = ("/v1/chat/completions",) * 60 + (
    "/v1/models", "/v1/models/../../etc/passwd", "/v1/models/a%00b", "/health", "/metrics",
    "/openapi.json", "/",
    "/index.html", "/../secret.json", "/%2e%2e/secret.json", "/site.json", "/v1/completions", "//",
    "/lib/../app.mjs",
)  # fmt: skip
_METHODS = ("POST",) * 60 + ("GET", "HEAD", "PUT", "OPTIONS", "DELETE", "get", "")
_HEADERS = (
    (b"content-encoding", b"gzip"), (b"content-length", b"99999999999999999999"),
    (b"content-length", b"-1"),
    (b"content-type", b"text/plain"), (b"authorization", b"Bearer \xff"), (b"origin",
    b"http://evil.example"),
    (b"host", b"evil.example"), (b"range", b"bytes=0-99999999999"), (b"content-length",
    "²".encode()),
    (b"x-a", b"a" * 5000), (b"accept", b"\xff\xfe"), (b"host", b""), (b"content-type",
    b"application/json;a=\xff"),
)  # fmt: skip
_BODY = {
    "model": "demo", "stream": False, "temperature": 0.5, "top_p": 0.9, "max_tokens": 5,
    "stop": ["a"], "seed": 1,
    "n": 1, "logit_bias": {"1": 2}, "presence_penalty": 0.0, "frequency_penalty": 0.1, "user": "a",
    "stream_options": {"include_usage": True},
    "budget": 6, "logprobs": False, "tools": [], "tool_choice": "none",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "PICTURE",
        "detail": "auto"}}, {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "why?"},
    ],
}  # fmt: skip
_TEXT = st.text(max_size=30) | st.sampled_from(TEXTS)
_URL = (
    st.sampled_from(
        (*OUTSIDE, "data:image/png;base64,", "data:,a", "http://127.0.0.1:1/a", "PICTURE")
    )
    | _TEXT
)
_PART = st.fixed_dictionaries(
    {"type": st.sampled_from(("text", "image_url", "video_url", "input_audio"))},
    optional={"text": _TEXT, "image_url": st.fixed_dictionaries({"url": _URL}) | _URL},
)
_MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("user", "system", "assistant", "tool", "developer", "")),
        "content": _TEXT | st.lists(_PART, max_size=4) | st.none(),
    }
)
_NUMBER = st.none() | st.integers() | st.floats() | st.booleans()
_REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGE, max_size=5)},
    optional={
        **dict.fromkeys(
            (
                "temperature",
                "top_p",
                "max_tokens",
                "max_completion_tokens",
                "seed",
                "n",
                "budget",
                "top_k",
                "min_p",
                "repetition_penalty",
                "top_logprobs",
                "presence_penalty",
            ),
            _NUMBER,
        ),
        "stream": st.booleans(),
        "stop": _TEXT | st.lists(_TEXT, max_size=6),
        "model": _TEXT,
        "logit_bias": st.dictionaries(_TEXT, _NUMBER, max_size=3),
    },
)


_SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 9}}},
    {"type": "string", "pattern": "^[a-z]{1,5}$", "maxLength": 9},
    {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 1, "maxItems": 3},
    {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}},
    {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"],
     "additionalProperties": False},
)  # fmt: skip


class Fuzz(Target):
    """See the module."""

    threat = "a request that ends the server, or reads a file or a network of its machine"
    memory_mb = 700  # of a picture in it

    def prepare(self, folder: Path) -> None:
        write_artifact(folder / "artifact", budgets=(6, 12))
        self.vlm = VLM.load(folder / "artifact", settings=EngineSettings(threads=1))
        self.engine = ScriptedEngine(BEGUN, text("a cat"), DONE)
        self.app = make_app(ServerOptions(name="demo"), self.engine)
        self.requests = Drawn(_REQUEST)
        self.picture = data_uri()
        # Standing: each request is its own, and one loop serves them all.
        self.loop = asyncio.new_event_loop()

    def write(self, random: Random, box: Path) -> None:
        if random.random() < 0.3:
            body = self.requests.one(self.number)
        else:
            schema = {"name": "a", "schema": random.choice(_SCHEMAS)}
            kind = {"type": "json_schema", "json_schema": schema}
            asked = _BODY | ({"response_format": kind} if random.random() < 0.4 else {})
            body = changed(random, asked)
        content = written(random, body).replace(b"PICTURE", self.picture.encode())
        if random.random() < 0.1:
            content = damaged(random, content)
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        if random.random() < 0.15:
            name, value = random.choice(_HEADERS)
            headers = [each for each in headers if each[0] != name] + [(name, value)]
        path = random.choice(_PATHS)
        method = random.choice(_METHODS if path == _PATHS[0] else ("GET", "GET", *_METHODS[-7:]))
        named = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
        head = [method, path, named]
        put(box / "head", json.dumps(head).encode())
        put(box / "body", content)

    def use(self, box: Path) -> str:
        method, path, headers = json.loads((box / "head").read_bytes())
        self.engine.asked.clear()
        self.engine.answers.clear()
        body = (box / "body").read_bytes()
        status, sent = self.loop.run_until_complete(self._exchange(method, path, headers, body))
        if not 200 <= status < 500 or (status >= 400 and b"Traceback" in sent):
            raise AssertionError(f"{method} {path} has status {status}: {sent[:200]!r}")
        if status >= 400 and path == _PATHS[0] and method == "POST":
            message = json.loads(sent)["error"]["message"]
            assert len(message.splitlines()) == 1, message
            assert len(message) < 2000, message[:200]
        if self.engine.asked and status < 400:
            self._answer(*self.engine.asked[-1])
        return "refused" if status >= 400 else "accepted"

    def _answer(self, asked: Any, pictures: list[bytes]) -> None:
        """As the process that has the model does, to which requests go as JSON."""
        asked = json.loads(json.dumps(asked))
        budget = asked["budget"] or 6
        for event in answer_events(self.vlm, asked, pictures, budget, threading.Event()):
            json.dumps(event)

    async def _exchange(
        self, method: str, path: str, headers: Any, body: bytes
    ) -> tuple[int, bytes]:
        sent: list[bytes] = []
        status: list[int] = []
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
            sent.append(message.get("body", b""))

        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path,
            "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
            "headers": raw,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
        }  # fmt: skip
        await asyncio.wait_for(self.app(scope, receive, send), 30)
        return status[0], b"".join(sent)
