"""Knows how a chat template is rendered: jinja2's sandbox, set up as transformers does; templates
are untrusted."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Mapping, Sequence, Sized
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from pocketvlm.errors import ArtifactError, RequestError

# jinja2's own errors, and what a template's expressions raise on data they do not expect.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)
# Far beyond any conversation that fits a model's context; what a hostile template would exceed
# without end.
_MAX_STEPS = 100_000  # loop passes and macro calls of one rendering
_MAX_PRODUCT = 1_000_000  # items of a repeated sequence, bits of an integer
_MAX_CHARACTERS = 16 << 20  # of the rendered prompt
_MAX_REASON = 300  # characters of a refusal


class ChatTemplate:
    """A compiled chat template. It cannot run forever: steps, products and the length of the prompt
    are bounded.

    Args:
        source: the jinja2 source, as in chat_template.jinja.
        special_tokens: names such as ``bos_token`` that the template may use, with their texts.

    Raises:
        PocketVLMError: the source does not compile.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        self._environment = _environment()
        try:
            tree = self._environment.parse(source)
            _count_steps(tree, self._environment)
            self._template = self._environment.from_string(tree)
        except _TEMPLATE_ERRORS as error:
            raise ArtifactError(
                f"the chat template does not compile ({_reason(error)})", advice="export it again"
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt text up to where the assistant begins to speak; raises `PocketVLMError` where
        it refuses."""
        variables = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        self._environment.steps = itertools.count(1)
        pieces: list[str] = []
        characters = 0
        try:
            for piece in self._template.generate(self._special_tokens | variables):
                characters += len(piece)
                if characters > _MAX_CHARACTERS:
                    raise SecurityError(f"it writes more than {_MAX_CHARACTERS} characters")
                pieces.append(piece)
        except _TEMPLATE_ERRORS as error:
            raise RequestError(
                f"the chat template refuses this conversation: {_reason(error)}"
            ) from error
        return "".join(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox guards objects; this one also counts steps and bounds what a product
    makes."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps = itertools.count(1)

    def count_step(self) -> None:
        """Called in every loop pass and macro call."""
        if next(self.steps) > _MAX_STEPS:
            raise SecurityError(f"it takes more than {_MAX_STEPS} steps")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply or raise to a power, unless the result would be huge."""
        if _product_size(operator, left, right) > _MAX_PRODUCT:
            raise SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _product_size(operator: str, left: Any, right: Any) -> int:
    """How large a product or power can get: items of a sequence, bits of an integer; 0 where it
    cannot grow."""
    match left, right:
        case int(), int():
            return (
                left.bit_length() * right
                if operator == "**"
                else left.bit_length() + right.bit_length()
            )
        case (Sized(), int()):
            return len(left) * right
        case (int(), Sized()):
            return left * len(right)
    return 0


def _count_steps(tree: nodes.Template, environment: _Sandbox) -> None:
    """Put a call of `_Sandbox.count_step` at the head of every loop and macro."""
    repeated: list[nodes.For | nodes.Macro] = [
        *tree.find_all(nodes.For),
        *tree.find_all(nodes.Macro),
    ]
    for node in repeated:
        call = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
    tree.set_environment(environment)


def _reason(error: Exception) -> str:
    """One line, whatever a template raises."""
    return " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__


class _Generation(Extension):
    """``{% generation %}`` marks answers, for training; for a prompt its body is plain text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> _Sandbox:
    environment = _Sandbox(
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
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(fmt: str) -> str:
    return datetime.datetime.now().strftime(fmt)
