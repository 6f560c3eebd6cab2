"""Asks by LangChain: ``python -m serve_clients.with_langchain GIVEN``, in its environment."""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from typing import Any, Literal

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from serve_clients.rows import Checks, equal, read_given, refused

_KINDS = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


class Seen(BaseModel):
    """What is in the picture."""

    colour: Literal["red", "green", "blue", "yellow", "purple", "white"]
    count: Literal[0, 1, 2, 3]


def main() -> None:
    """All checks, a row each."""
    given = read_given()
    asked = Asked(given)
    checks = Checks(f"langchain-openai {version('langchain-openai')}")
    names = [name for name in given["cases"] if name.startswith("plain")][:6]
    checks.check("invoke", [partial(asked.invoke, name) for name in names])
    checks.check("stream, with usage", [partial(asked.stream, name) for name in names])
    checks.check("a picture as base64", [partial(asked.base64, name) for name in names[:2]])
    for name in ("system", "turns", "stop list", "length", "drawn", "penalties"):
        checks.check(name, [partial(asked.invoke, name), partial(asked.stream, name)])
    checks.check("budget by extra_body", [partial(asked.invoke, "budget 14")])
    checks.check("with_structured_output", [asked.structured, asked.structured_by_json])
    checks.check("batch", [partial(asked.batch, names)])
    checks.check("errors", [asked.wrong_key, asked.bad_request])


class Asked:
    """The server, asked."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._cases = given["cases"]
        self._given = given

    def invoke(self, name: str) -> None:
        """One answer, whole."""
        case = self._cases[name]
        answer = self._model(case).invoke(_messages(case))
        equal(answer.content, case["text"])
        equal(answer.response_metadata["finish_reason"], case["finish_reason"])
        equal(answer.usage_metadata["input_tokens"], case["prompt_tokens"])

    def stream(self, name: str) -> None:
        """The same in pieces."""
        case = self._cases[name]
        chunks = list(self._model(case, stream_usage=True).stream(_messages(case)))
        equal("".join(str(chunk.content) for chunk in chunks), case["text"])
        usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        equal(sum(usage["output_tokens"] for usage in usages), case["completion_tokens"])

    def base64(self, name: str) -> None:
        """Pictures in LangChain's own form, which it turns into OpenAI's."""
        case = self._cases[name]
        content = [_own_part(part) for part in case["messages"][-1]["content"]]
        answer = self._model(case).invoke([HumanMessage(content=content)])
        equal(answer.content, case["text"])

    def structured(self) -> None:
        """What a class of pydantic's asks for."""
        case = self._cases["json_schema"]
        model = self._model({"keys": {}, "extra": {}}).with_structured_output(
            Seen, method="json_schema"
        )
        assert isinstance(model.invoke(_messages(case)), Seen)

    def structured_by_json(self) -> None:
        """A schema as it is: the answer that `VLM.generate` gives to it."""
        case = self._cases["json_schema"]
        schema = {"title": "seen", **self._given["schema"]}
        model = self._model({"keys": {}, "extra": {}}).with_structured_output(
            schema, method="json_schema"
        )
        equal(model.invoke(_messages(case)), json.loads(case["text"]))

    def batch(self, names: list[str]) -> None:
        """Several at once, each with its own answer."""
        cases = [self._cases[name] for name in names]
        answers = self._model(cases[0]).batch([_messages(case) for case in cases])
        equal([each.content for each in answers], [case["text"] for case in cases])

    def wrong_key(self) -> None:
        """OpenAI's exception comes through."""
        model = self._model({"keys": {}, "extra": {}}, api_key="wrong", max_retries=0)
        refused(lambda: model.invoke("hi"), openai.AuthenticationError)

    def bad_request(self) -> None:
        """As above."""
        model = self._model({"keys": {}, "extra": {"budget": 999}}, max_retries=0)
        refused(lambda: model.invoke(_messages(self._cases["plain 0"])), openai.BadRequestError)

    def _model(self, case: dict[str, Any], **further: Any) -> Any:
        settings = {
            "base_url": self._given["url"],
            "api_key": self._given["key"],
            "model": self._given["model"],
            "timeout": 300,
            **case["keys"],
            **further,
        }
        if case["extra"]:
            settings["extra_body"] = case["extra"]
        return ChatOpenAI(**settings)


def _messages(case: dict[str, Any]) -> list[Any]:
    return [_KINDS[each["role"]](content=each["content"]) for each in case["messages"]]


def _own_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    head, _, data = part["image_url"]["url"].partition(";base64,")
    return {"type": "image", "base64": data, "mime_type": head.removeprefix("data:")}


if __name__ == "__main__":
    main()
