"""Knows where a chat template is counted: calls put into its syntax tree, and what of it is refused
or worked out before it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from jinja2 import nodes
from jinja2.sandbox import SecurityError
from jinja2.visitor import NodeTransformer

from pocketvlm.text.work import ITEM

_MAX_NODES = 100_000  # of a template's syntax tree; published ones have some thousands
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
# What other programs have and this one does not. A template that asks for them tells where it is
# rendered, and could loop for hours there alone.
_NAMES_ELSEWHERE = ("cycler", "joiner", "lipsum")
_TESTS_OF_PROGRAMS = ("filter", "test")


def check_tree(tree: nodes.Template) -> None:
    """Raise `SecurityError` for a template that uses what no chat template needs."""
    count = 0
    for node in tree.find_all(nodes.Node):
        count += 1
        if isinstance(node, _REFUSED_NODES):
            raise SecurityError(f"it has a {type(node).__name__.lower()} statement")
        if isinstance(node, nodes.Name) and node.name in _NAMES_ELSEWHERE:
            raise SecurityError(f"it uses {node.name}, which is not known here")
        if isinstance(node, nodes.Test) and node.name in _TESTS_OF_PROGRAMS:
            raise SecurityError(f"it asks whether a {node.name} is there")
        if isinstance(node, (nodes.Macro, nodes.CallBlock)):
            for inner in node.find_all(nodes.Name):
                if inner.name in _REFUSED_NAMES:
                    raise SecurityError(f"a macro of it uses {inner.name}")
    if count > _MAX_NODES:
        raise SecurityError(f"it has more than {_MAX_NODES} parts")


def costly_constants(node: nodes.Node) -> Iterable[nodes.Expr]:
    """Expressions that no input changes and whose result may be larger than they are."""
    if isinstance(node, nodes.Expr) and not isinstance(node, nodes.Const) and _is_constant(node):
        inner = itertools.chain([node], node.find_all(nodes.Node))
        if any(isinstance(part, (nodes.Mul, nodes.Pow, nodes.Mod, nodes.Filter)) for part in inner):
            yield node
        return
    for child in node.iter_child_nodes():
        yield from costly_constants(child)


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter) and node.node is None:  # of a filter block
        return False
    return next(node.find_all((nodes.Name, nodes.Call)), None) is None and not isinstance(
        node, (nodes.Name, nodes.Call, nodes.Keyword, nodes.Operand, nodes.Slice, nodes.Pair)
    )


def metered(tree: nodes.Template) -> nodes.Template:
    """The template with calls of the sandbox's counting functions in it: of the environment's
    attributes ``metered_count``, ``metered_concat``, ``metered_value`` and ``metered_items``."""
    counting: nodes.Template = _Metering().visit(tree)
    return counting


class _Metering(NodeTransformer):
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


def _call(name: str, node: nodes.Node, *arguments: nodes.Node) -> nodes.Call:
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
