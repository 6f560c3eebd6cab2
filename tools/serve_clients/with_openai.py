"""Asks by OpenAI's own client: ``python -m serve_clients.with_openai GIVEN``, in its
environment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from serve_clients.rows import Checks, equal, read_given, refused

Case = dict[str, Any]
_SECONDS = 300.0


class Seen(BaseModel):
    """What is asked for as a schema, as pydantic has it."""

    colour: Literal["red", "green", "blue", "yellow", "purple", "white"]
    count: Literal[0, 1, 2, 3]


def main() -> None:
    """All checks, a row each."""
    given = read_given()
    asked = Asked(given)
    checks = Checks(f"openai {openai.__version__}")
    checks.check("models", [asked.models])
    plain = [name for name in asked.cases if name.startswith("plain")]
    checks.check("plain", [partial(asked.plain, name) for name in plain])
    checks.check("streamed, with usage", [partial(asked.streamed, name) for name in plain])
    for name in sorted(asked.cases.keys() - set(plain)):
        checks.check(name, [partial(asked.plain, name), partial(asked.streamed, name)])
    checks.check("parse with pydantic", [asked.parsed])
    checks.check("four at once (AsyncOpenAI)", [asked.at_once])
    for status, kind, requests in asked.refusals():
        checks.check(f"{status} is {kind.__name__}", requests)
    checks.check("429 is RateLimitError", [asked.too_many])
    checks.check("a stream that is left", [asked.left])


class Asked:
    """The server, asked."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.cases: dict[str, Case] = given["cases"]
        self._given = given
        self._model = given["model"]
        self._client = OpenAI(base_url=given["url"], api_key=given["key"], timeout=_SECONDS)

    def models(self) -> None:
        """The one that is served."""
        listed = self._client.models.list().data
        equal([each.id for each in listed], [self._model])

    def plain(self, name: str) -> None:
        """One answer, whole."""
        case = self.cases[name]
        answer = self._create(case)
        choice = answer.choices[0]
        equal(choice.message.role, "assistant")
        equal(choice.message.content, case["text"])
        equal(choice.finish_reason, case["finish_reason"])
        self._usage(answer.usage, case)

    def streamed(self, name: str) -> None:
        """The same in pieces."""
        case = self.cases[name]
        pieces, ends, usage = "", [], None
        for chunk in self._create(case, stream=True, stream_options={"include_usage": True}):
            equal(chunk.object, "chat.completion.chunk")
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces += choice.delta.content or ""
                ends += [choice.finish_reason] if choice.finish_reason else []
        equal(pieces, case["text"])
        equal(ends, [case["finish_reason"]])
        self._usage(usage, case)

    def parsed(self) -> None:
        """What ``response_format`` makes of a class of pydantic's."""
        messages = self.cases["json_schema"]["messages"]
        answer = self._client.chat.completions.parse(
            model=self._model, messages=messages, response_format=Seen, max_tokens=200
        )
        assert isinstance(answer.choices[0].message.parsed, Seen)

    def at_once(self) -> None:
        """Each answer is its own question's."""
        names = [name for name in self.cases if name.startswith("plain")][:4]

        async def ask_all() -> list[Any]:
            given = self._given
            async with AsyncOpenAI(base_url=given["url"], api_key=given["key"]) as client:
                asked = (
                    client.chat.completions.create(
                        model=self._model, messages=self.cases[name]["messages"]
                    )
                    for name in names
                )
                return list(await asyncio.gather(*asked))

        answers = [each.choices[0].message.content for each in asyncio.run(ask_all())]
        equal(answers, [self.cases[name]["text"] for name in names])

    def refusals(self) -> list[tuple[int, type[Exception], list[Callable[[], None]]]]:
        """What is refused, by status and the client's own exception."""
        picture = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
        damaged = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}
        bad: list[tuple[str | None, dict[str, Any]]] = [
            ("n", {"n": 2}),
            ("messages", {"messages": []}),
            (None, {"messages": [{"role": "user", "content": [picture]}]}),
            (None, {"messages": [{"role": "user", "content": [damaged]}]}),
            ("temperature", {"temperature": -1}),
            ("budget", {"extra_body": {"budget": 999}}),
            ("logprobs", {"logprobs": True}),
            ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
            ("response_format", {"response_format": schema}),
            ("presence_penalty", {"presence_penalty": 3}),
        ]
        large = "x" * self._given["most_bytes"]
        return [
            (400, openai.BadRequestError, [partial(self._bad, *each) for each in bad]),
            (401, openai.AuthenticationError, [self._without_key]),
            (404, openai.NotFoundError, [self._nowhere]),
            (413, openai.APIStatusError, [partial(self._too_large, large)]),
        ]

    def too_many(self) -> None:
        """A server that lets one wait, asked by many."""

        async def ask_many() -> list[Any]:
            narrow = self._given["narrow"]
            async with AsyncOpenAI(
                base_url=narrow, api_key=self._given["key"], max_retries=0, timeout=_SECONDS
            ) as client:
                messages = self.cases["plain 0"]["messages"]
                asked = (
                    client.chat.completions.create(
                        model=self._model, messages=messages, max_tokens=100
                    )
                    for _ in range(8)
                )
                return list(await asyncio.gather(*asked, return_exceptions=True))

        answers = asyncio.run(ask_many())
        errors = [each for each in answers if isinstance(each, Exception)]
        assert errors, "none was sent away"
        assert len(errors) < len(answers), "none was answered"
        for error in errors:
            assert isinstance(error, openai.RateLimitError), error
            assert int(error.response.headers["retry-after"]) >= 1

    def left(self) -> None:
        """Whoever goes leaves no answer behind: the next one comes as ever."""
        stream = self._create(self.cases["plain 0"], stream=True)
        next(iter(stream))
        stream.close()
        self.plain("plain 1")

    def _create(self, case: Case, **further: Any) -> Any:
        return self._client.chat.completions.create(
            model=self._model,
            messages=case["messages"],
            extra_body=case["extra"] or None,
            **case["keys"],
            **further,
        )

    def _usage(self, usage: Any, case: Case) -> None:
        equal(usage.prompt_tokens, case["prompt_tokens"])
        equal(usage.completion_tokens, case["completion_tokens"])
        equal(usage.total_tokens, case["prompt_tokens"] + case["completion_tokens"])

    def _bad(self, param: str | None, keys: dict[str, Any]) -> None:
        asked = {"model": self._model, "messages": self.cases["plain 0"]["messages"], **keys}
        error = refused(
            lambda: self._client.chat.completions.create(**asked), openai.BadRequestError
        )
        body = error.body
        assert isinstance(body["message"], str), body
        equal(body["type"], "invalid_request_error")
        if param is not None:
            assert str(body["param"]).startswith(param), body
        assert "Traceback" not in json.dumps(body)

    def _without_key(self) -> None:
        for key in ("wrong", "none"):
            other = OpenAI(base_url=self._given["url"], api_key=key, max_retries=0)
            error = refused(lambda: other.models.list(), openai.AuthenticationError)  # noqa: B023
            equal(error.status_code, 401)

    def _nowhere(self) -> None:
        refused(lambda: self._client.embeddings.create(model="x", input="x"), openai.NotFoundError)

    def _too_large(self, text: str) -> None:
        messages = [{"role": "user", "content": text}]
        error = refused(
            lambda: self._client.chat.completions.create(model=self._model, messages=messages),
            openai.APIStatusError,
        )
        equal(error.status_code, 413)


if __name__ == "__main__":
    main()
