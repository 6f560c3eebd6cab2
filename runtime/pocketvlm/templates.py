"""Knows how a chat template is rendered: jinja2's sandbox, set up as transformers does; templates are untrusted."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pocketvlm.errors import PocketVLMError

# jinja2's own errors, and what a template's expressions raise on data they do not expect.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the jinja2 source, as in chat_template.jinja.
        special_tokens: names such as ``bos_token`` that the template may use, with their texts.

    Raises:
        PocketVLMError: the source does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except _TEMPLATE_ERRORS as error:
            raise PocketVLMError(f"the chat template does not compile ({error}): export it again") from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt text up to where the assistant begins to speak; raises `PocketVLMError` where it refuses."""
        try:
            return self._template.render(
                **self._special_tokens, messages=messages, tools=None, documents=None, add_generation_prompt=True
            )
        except _TEMPLATE_ERRORS as error:
            raise PocketVLMError(f"the chat template refuses this conversation: {error}") from error


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said, for training; for a prompt its body is plain text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML; models were trained on plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(fmt: str) -> str:
    return datetime.datetime.now().strftime(fmt)
