"""Knows what a chat template may use, as published ones do: the sandbox of jinja2 with lists of
filters, functions and methods, each of them bounded."""

from __future__ import annotations

import datetime
import os
import types
from collections.abc import Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from pocketvlm.text.filters import charged_filters, charged_tests, measured
from pocketvlm.text.metering import check_tree, costly_constants, metered
from pocketvlm.text.work import (
    CALL,
    ITEM,
    charge_join,
    charge_product,
    charge_replacement,
    check_power,
    work,
)

_MAX_FORMAT = 100  # characters of a date's format

_TEXT_METHODS = frozenset(
    name
    for name in dir(str)
    if name.startswith(("is", "l", "r", "s"))
    or name in ("capitalize", "casefold", "count", "endswith", "find", "index", "join")
    or name in ("partition", "title", "upper")
) - {"rjust", "ljust"}
_METHODS: Mapping[type, frozenset[str]] = {
    str: _TEXT_METHODS,
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    list: frozenset({"count", "index", "copy"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}


# A path that nothing can lie at.
_NO_FILE = f"{os.devnull}/<template>"


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox guards objects; this one also counts what a template does, see
    `pocketvlm.text.work`. Nothing is worked out while a template is compiled."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalize,
            extensions=[_Generation, loopcontrols],
        )
        self.filters = charged_filters(self.filters)
        self.tests.update(charged_tests(self.tests))
        self.globals = {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "range": self.globals["range"],
            "dict": _dict,
            "namespace": _Namespace,
        }
        self._functions = {id(function) for function in self.globals.values()}
        # What the template calls without knowing, see `_Metering`.
        self._counting = {*map(id, (_count, _concat, measured, _iterate))}
        self.metered_count, self.metered_concat = _count, _concat
        self.metered_value, self.metered_items = measured, _iterate

    def metered(self, source: str) -> jinja2.Template:
        """A template that counts what it does.

        Raises:
            SecurityError: it uses what no chat template needs.
            Exception: whatever jinja2 and Python's compiler raise on odd sources.
        """
        tree = self.parse(source)
        check_tree(tree)
        constants = list(costly_constants(tree))
        template = self.from_string(self._meter(tree))
        for expression in constants:
            self._work_out(expression)
        return template

    def _compile(self, source: str, filename: str) -> types.CodeType:
        """jinja2's hook for the compiler. Python quotes a line of a program that it refuses, from
        the file of its name: under jinja2's own name one in the folder that we are in."""
        del filename
        return compile(source, _NO_FILE, "exec")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a function of ours or a method of the lists."""
        if id(__obj) in __self._counting:
            return __obj(*args)
        if id(__obj) in __self._functions or isinstance(__obj, (Macro, LoopContext)):
            work().charge(CALL if isinstance(__obj, Macro) else 1)
            return super().call(__context, __obj, *args, **kwargs)
        args = _charged_arguments(__obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(__obj.__self__, str):
            work().charge_value(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate, unless the result would be huge."""
        match operator:
            case "*":
                charge_product(left, right)
            case "**":
                check_power(left, right)
            case "%" if isinstance(left, str):
                raise SecurityError("texts are not formatted by %")
            case _:
                work().charge_value(left)
                work().charge_value(right)
        return work().integer(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item; a key of several parts takes time for each of them."""
        if isinstance(argument, tuple):
            work().charge_value(argument)
        return super().getitem(obj, argument)

    def _meter(self, tree: nodes.Template) -> nodes.Template:
        tree = metered(tree)
        tree.set_environment(self)
        return tree

    def _work_out(self, expression: nodes.Expr) -> None:
        """Calculate what no input changes, as other programs do when they compile a template: one
        that cannot be calculated here must not reach them."""
        for name in (node.name for node in expression.find_all(nodes.Filter)):
            if name not in self.filters:
                raise SecurityError(f"the filter {name} is not known here")
        if isinstance(expression, nodes.Filter) and expression.name not in self.filters:
            raise SecurityError(f"the filter {expression.name} is not known here")
        output = nodes.Template([nodes.Output([expression], lineno=1)], lineno=1)
        try:
            self.from_string(self._meter(output)).render()
        except SecurityError:
            raise
        except Exception:  # noqa: BLE001, S110 - it matters only where the template comes to it
            pass


def _count(units: int) -> bool:
    work().charge(units)
    return True


def _concat(*values: Any) -> str:
    for value in values:
        work().charge_text(value)
    return "".join(map(str, values))


def _iterate(value: Any) -> Any:
    return work().iterate(value)


@pass_context
def _finalize(context: Context, value: Any) -> str:
    """What an expression writes. That it takes the context keeps jinja2 from calling it while it
    compiles."""
    work().charge_text(value)
    return str(value)


def _charged_arguments(
    method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a method, which is charged before it is called; `SecurityError` for a method
    that no chat template needs."""
    owner: Any = getattr(method, "__self__", None)
    name = getattr(method, "__name__", type(method).__name__)
    is_method = isinstance(method, (types.BuiltinMethodType, types.MethodType))
    kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
    if not is_method or kind is None or name not in _METHODS[kind]:
        raise SecurityError(f"it calls {name}, which is not known here")
    work().charge(ITEM)
    if kind is str and name == "replace":
        charge_replacement(owner, *args, **kwargs)
    elif kind is str and name == "join" and len(args) == 1:
        args = (list(work().iterate(args[0])),)
        charge_join(owner, args[0])
    elif kind is str:
        work().charge(len(owner))
    elif name in ("count", "index", "changed", "cycle"):
        work().charge_value([owner if kind is not LoopContext else None, *args])
    elif name == "copy":
        work().charge_value(owner)
    return args


def _raise_exception(message: Any) -> NoReturn:
    work().charge_text(message)
    raise jinja2.TemplateError(str(message))


def _strftime_now(fmt: str) -> str:
    if len(fmt) > _MAX_FORMAT:
        raise SecurityError("the format of a date is too long")
    return datetime.datetime.now().strftime(fmt)


def _dict(*args: Any, **kwargs: Any) -> dict[str, Any]:
    made = dict(*map(_iterate, args), **kwargs)
    work().charge_value(made)
    return made


class _Namespace(Namespace):
    """Names that reach into Python are not names here, as in transformers."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # any name may be one of the kwargs
        own = args[0]
        attributes = dict(*map(_iterate, args[1:]), **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(own, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the name {name[:40]}")


class _Generation(Extension):
    """``{% generation %}`` marks answers, for training; for a prompt its body is plain text."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
