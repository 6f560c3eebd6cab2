"""Knows what a chat template may use, as published ones do: the sandbox of jinja2 with lists of
filters, tests, globals and methods, each of them bounded."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from pocketvlm.text.work import (
    CALL,
    ITEM,
    charge_indent,
    charge_join,
    charge_product,
    charge_replacement,
    check_power,
    work,
)

_MAX_NODES = 100_000  # of a template's syntax tree; published ones have some thousands
_MAX_INDENT = 16
_MAX_SEPARATOR = 16  # characters, of JSON
_MAX_PLACES = 30  # that a number is rounded to
_MAX_FORMAT = 100  # characters of a date's format

# Statements and expressions that load other templates, or that no chat template has.
_REFUSED_NODES = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Block,
    nodes.ScopedEvalContextModifier,
    nodes.EvalContextModifier,
)
_REFUSED_NAMES = ("varargs", "kwargs")  # of macros: containers that nobody has measured
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
        kept = {name: self.filters[name] for name in (*_CHARGES, *_GOING_THROUGH)}
        self.filters = {name: _charged(name, function) for name, function in kept.items()}
        self.filters["tojson"] = _to_json
        self.tests = {name: _charged_test(name, test) for name, test in self.tests.items()}
        self.globals = {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "range": self.globals["range"],
            "dict": _dict,
            "namespace": _Namespace,
        }
        self._functions = {id(function) for function in self.globals.values()}
        # What the template calls without knowing, see `_Metering`.
        self._counting = {*map(id, (_count, _concat, _measured, _iterate))}
        self.metered_count, self.metered_concat = _count, _concat
        self.metered_value, self.metered_items = _measured, _iterate

    def metered(self, source: str) -> jinja2.Template:
        """A template that counts what it does.

        Raises:
            SecurityError: it uses what no chat template needs.
            Exception: whatever jinja2 and Python's compiler raise on odd sources.
        """
        tree = self.parse(source)
        _check(tree)
        constants = list(_costly_constants(tree))
        template = self.from_string(self._meter(tree))
        for expression in constants:
            self._work_out(expression)
        return template

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a function of ours or a method of the lists."""
        if id(__obj) in __self._counting:
            return __obj(*args)
        if id(__obj) in __self._functions or isinstance(__obj, (Macro, LoopContext)):
            work().charge(CALL if isinstance(__obj, Macro) else 1)
            return super().call(__context, __obj, *args, **kwargs)
        _check_method(__obj, args, kwargs)
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
        tree = _Metering().visit(tree)
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


def _check(tree: nodes.Template) -> None:
    count = 0
    for node in tree.find_all(nodes.Node):
        count += 1
        if isinstance(node, _REFUSED_NODES):
            raise SecurityError(f"it has a {type(node).__name__.lower()} statement")
        if isinstance(node, nodes.Name) and node.name in _REFUSED_NAMES:
            raise SecurityError(f"it uses {node.name}")
    if count > _MAX_NODES:
        raise SecurityError(f"it has more than {_MAX_NODES} parts")


def _costly_constants(node: nodes.Node) -> Iterable[nodes.Expr]:
    """Expressions that no input changes and whose result may be larger than they are."""
    if isinstance(node, nodes.Expr) and not isinstance(node, nodes.Const) and _is_constant(node):
        inner = itertools.chain([node], node.find_all(nodes.Node))
        if any(isinstance(part, (nodes.Mul, nodes.Pow, nodes.Mod, nodes.Filter)) for part in inner):
            yield node
        return
    for child in node.iter_child_nodes():
        yield from _costly_constants(child)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter) and node.node is None:  # of a filter block
        return False
    return next(node.find_all((nodes.Name, nodes.Call)), None) is None and not isinstance(
        node, (nodes.Name, nodes.Call, nodes.Keyword, nodes.Operand, nodes.Slice, nodes.Pair)
    )


class _Metering(NodeTransformer):
    """Puts calls of the sandbox's counting functions into a template."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        cost = _cost(node.body)
        if node.test is not None:
            counted = _call("metered_count", node, nodes.Const(_cost([node.test])))
            node.test = nodes.And(counted, node.test, lineno=node.lineno)
        self.generic_visit(node)
        node.iter = _call("metered_items", node, node.iter)
        node.body.insert(0, _count_statement(node, cost))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        cost = _cost(node.body)
        self.generic_visit(node)
        node.body.insert(0, _count_statement(node, cost))
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        cost = _cost(node.body)
        self.generic_visit(node)
        node.body.insert(0, _count_statement(node, cost))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _call("metered_concat", node, *node.nodes)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        is_cut = isinstance(node.arg, nodes.Slice)
        return _call("metered_value", node, node) if is_cut else node

    def visit_List(self, node: nodes.List) -> nodes.Expr:
        return self._container(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        return node if node.ctx != "load" else self._container(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:
        return self._container(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        is_search = any(operand.op in ("in", "notin") for operand in node.ops)
        node.expr = self._operand(node.expr, is_search)
        for operand in node.ops:
            operand.expr = self._operand(operand.expr, operand.op in ("in", "notin"))
        return node

    def _operand(self, node: nodes.Expr, is_search: bool) -> nodes.Expr:
        if isinstance(node, nodes.Const):
            return node
        return _call("metered_value", node, node, nodes.Const(is_search))

    def _container(self, node: nodes.Expr) -> nodes.Expr:
        if all(isinstance(child, nodes.Const) for child in node.iter_child_nodes()):
            return node
        self.generic_visit(node)
        return _call("metered_value", node, node)


def _call(name: str, node: nodes.Node, *arguments: nodes.Expr) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
    return nodes.Call(function, list(arguments), [], None, None, lineno=node.lineno)


def _count_statement(node: nodes.Node, cost: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_call("metered_count", node, nodes.Const(cost)), lineno=node.lineno)


def _cost(body: Sequence[nodes.Node]) -> int:
    """Units of what stands in a loop or macro: a node is one, a character of text is one; bodies in
    it count for themselves."""
    cost, rest = ITEM, list(body)
    while rest:
        node = rest.pop()
        cost += 1
        if isinstance(node, nodes.TemplateData):
            cost += len(node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            cost += len(node.value)
        elif isinstance(node, nodes.For):
            rest += [node.iter, *node.else_]
            continue
        elif isinstance(node, (nodes.Macro, nodes.CallBlock)):
            continue
        rest += node.iter_child_nodes()
    return cost


def _count(units: int) -> bool:
    work().charge(units)
    return True


def _concat(*values: Any) -> str:
    for value in values:
        work().charge_text(value)
    return "".join(map(str, values))


def _measured(value: Any, is_search: bool = False) -> Any:
    if is_search and isinstance(value, Mapping):
        work().charge(ITEM)
    else:
        work().charge_value(value)
    return value


def _iterate(value: Any) -> Any:
    return work().iterate(value)


@pass_context
def _finalize(context: Context, value: Any) -> str:
    """What an expression writes. That it takes the context keeps jinja2 from calling it while it
    compiles."""
    work().charge_text(value)
    return str(value)


def _check_method(method: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    owner = getattr(method, "__self__", None)
    name = getattr(method, "__name__", type(method).__name__)
    is_method = isinstance(method, (types.BuiltinMethodType, types.MethodType))
    kind = next((kind for kind in _METHODS if isinstance(owner, kind)), None)
    if not is_method or kind is None or name not in _METHODS[kind]:
        raise SecurityError(f"it calls {name}, which is not known here")
    work().charge(ITEM)
    if kind is str and name == "replace":
        charge_replacement(owner, *args, **kwargs)
    elif kind is str and name == "join":
        charge_join(owner, list(work().iterate(*args)))
    elif kind is str:
        work().charge(len(owner))
    elif name in ("count", "index", "changed", "cycle"):
        work().charge_value([owner if kind is not LoopContext else None, *args])
    elif name == "copy":
        work().charge_value(owner)


def _charge_text(value: Any, *args: Any, **kwargs: Any) -> Any:
    work().charge_text(value)
    return value


def _charge_nothing(value: Any, *args: Any, **kwargs: Any) -> Any:
    return value


def _charge_list(value: Any, *args: Any, **kwargs: Any) -> Any:
    """Of filters that compare items."""
    items = value if isinstance(value, (Mapping, str)) else list(work().iterate(value))
    work().charge_value(items, 4)
    return items


def _charge_join(value: Any, d: Any = "", *args: Any, **kwargs: Any) -> Any:
    items = list(work().iterate(value))
    charge_join(str(d), items)
    return items


def _charge_replace(value: Any, old: Any, new: Any, count: int | None = None) -> Any:
    _charge_text([value, old, new])
    charge_replacement(str(value), str(old), str(new), count)
    return value


def _charge_indent(value: Any, width: int | str = 4, *args: Any, **kwargs: Any) -> Any:
    _charge_text(value)
    charge_indent(str(value), width)
    return value


def _charge_round(value: Any, precision: int = 0, *args: Any, **kwargs: Any) -> Any:
    if abs(precision) > _MAX_PLACES:
        raise SecurityError("a number is rounded to too many places")
    return value


# The filters that a template may use, with what is charged before each.
_CHARGES: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(
        [
            "abs",
            "count",
            "d",
            "default",
            "first",
            "int",
            "float",
            "items",
            "last",
            "length",
            "safe",
            "tojson",
        ],
        _charge_nothing,
    ),
    **dict.fromkeys(
        [
            "capitalize",
            "e",
            "escape",
            "forceescape",
            "lower",
            "string",
            "title",
            "trim",
            "truncate",
            "upper",
            "wordcount",
        ],
        _charge_text,
    ),
    **dict.fromkeys(("dictsort", "groupby", "max", "min", "sort", "unique"), _charge_list),
    "indent": _charge_indent,
    "join": _charge_join,
    "replace": _charge_replace,
    "round": _charge_round,
}
# Of these each item is charged as it comes.
_GOING_THROUGH = ("list", "map", "reject", "rejectattr", "reverse", "select", "selectattr")
_COMPARING = ("eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt")
_COMPARING += ("greaterthan", ">", "ge", ">=", "in")


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2's that is charged before it is called, and for what it makes."""
    own = int(hasattr(function, "jinja_pass_arg"))  # arguments before the value
    charge = _CHARGES.get(name, lambda value, *args, **kwargs: work().iterate(value))

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        work().charge(ITEM)
        value = charge(*args[own:], **kwargs)
        result = function(*args[:own], value, *args[own + 1 :], **kwargs)
        if isinstance(result, (str, list, tuple)):
            work().charge(len(result) * (1 if isinstance(result, str) else ITEM))
        return work().integer(result)

    return filtered


def _charged_test(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    """A test of jinja2's; those that compare are charged what they compare."""
    if name not in (*_COMPARING, "lower", "upper"):
        return test

    @functools.wraps(test)
    def tested(*args: Any) -> Any:
        for value in args:
            work().charge_text(value) if name in ("lower", "upper") else _measured(value)
        return test(*args)

    return tested


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own filter escapes HTML; models were trained on plain JSON."""
    if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
        raise SecurityError("JSON is indented too far")
    if separators is not None and any(len(text) > _MAX_SEPARATOR for text in separators):
        raise SecurityError("JSON has too long separators")
    work().charge_text(value)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    pieces = []
    for piece in encoder.iterencode(value):
        work().charge(len(piece))
        pieces.append(piece)
    return "".join(pieces)


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
    """Names that reach into Python are no names here, as in transformers."""

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
