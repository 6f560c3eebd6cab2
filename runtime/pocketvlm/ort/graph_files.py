"""Knows what a graph's file is made of, without ONNX Runtime: its nodes, its constants, and what
else would be computed.

Both formats: ONNX (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) and ORT format
(``onnxruntime/core/flatbuffers/schema/ort.fbs``). Numbers of fields are those of the schemas.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pocketvlm.errors import ArtifactError
from pocketvlm.ort.flatbuffer import Table
from pocketvlm.ort.protobuf import Span, fields, numbers

_ORT_MAGIC = b"ORTM"  # at 4
_GRAPH_ATTRIBUTES = (5, 10)  # types of attributes: a graph, several
_MAX_NODES = 30_000  # the largest exports have some 10,000
_MAX_CONSTANTS = 30_000
_MAX_NAME = 4096
_MAX_AXES = 64
_INT64 = 7  # among the kinds of values


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        domain: of its operator; empty for ONNX's own.
        op: its operator.
        inputs: names of what it reads, empty where an input is left out.
        outputs: names of what it gives.
        has_graph: whether it runs graphs of its own, as Loop does.
        axis: its attribute of that name, or 0.
        value: sizes of the tensor it states, as Constant does; where it states numbers one by one,
            as many as there may be.
    """

    domain: str
    op: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    has_graph: bool = False
    axis: int = 0
    value: tuple[int, ...] = ()


@dataclass(frozen=True)
class GraphFile:
    """What is in a graph's file.

    Attributes:
        nodes: in their order.
        constants: name -> sizes of each tensor that is in the file or beside it; none in ORT
            format, where all that can be computed beforehand has been.
        shapes: name -> values of each constant that may be the sizes of a tensor: whole numbers in
            one axis, few of them.
        extras: names of what else it brings that would be computed or allocated.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    extras: tuple[str, ...] = ()


def read_graph_file(path: Path) -> GraphFile:
    """Read a graph's nodes; a second at most, however large its weights are.

    Raises:
        ArtifactError: no graph, or one of more nodes than anything that is exported.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            is_ort = data[4:8] == _ORT_MAGIC
            if is_ort != (path.suffix == ".ort"):  # ONNX Runtime looks at either
                raise ValueError("its name is that of another format")
            return _ort(data) if is_ort else _onnx(data)
    except (OSError, ValueError, struct.error) as error:  # ValueError: an empty file, too
        raise ArtifactError(
            f"{path.name} cannot be read as a graph ({error})", advice="copy or export it again"
        ) from error


def _onnx(data: mmap.mmap) -> GraphFile:
    nodes: list[Node] = []
    constants: dict[str, tuple[int, ...]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    extras: set[str] = set()
    for number, value in fields(data, Span(0, len(data))):
        if number == 7 and isinstance(value, Span):  # several are one, one after the other
            for part, content in fields(data, value):
                if part == 1 and isinstance(content, Span):
                    nodes.append(_node(data, content))
                    _check_count("nodes", len(nodes), _MAX_NODES)
                elif part == 5 and isinstance(content, Span):
                    name, sizes = _tensor(data, content)
                    constants[name] = sizes
                    if (values := _shape(data, content, sizes)) is not None:
                        shapes[name] = values
                    _check_count("tensors", len(constants), _MAX_CONSTANTS)
                elif part == 15:
                    extras.add("sparse tensors")
        elif number in (20, 25):
            extras.add({20: "a training step", 25: "functions"}[number])
    return GraphFile(tuple(nodes), constants, shapes, tuple(sorted(extras)))


def _node(data: mmap.mmap, span: Span) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [""], 7: [""]}
    has_graph, axis, stated = False, 0, tuple[int, ...]()
    for number, value in fields(data, span):
        if number in texts and isinstance(value, Span):
            texts[number].append(_text(data, value))
        elif number == 5 and isinstance(value, Span):
            graphs, given, sizes = _attribute(data, value)
            has_graph, axis = has_graph or graphs, axis if given is None else given
            stated = max(stated, sizes, key=elements)
    domain = texts[7][-1]
    return Node(
        "" if domain == "ai.onnx" else domain,
        texts[4][-1],
        tuple(texts[1]),
        tuple(texts[2]),
        has_graph,
        axis,
        stated,
    )


def _attribute(data: mmap.mmap, span: Span) -> tuple[bool, int | None, tuple[int, ...]]:
    """Whether an attribute holds graphs or sparse tensors, its value where it is ``axis``, and the
    sizes of the tensor in it, see `Node.value`."""
    name, whole, graphs, count, sizes = "", 0, False, 0, None
    for number, value in fields(data, span):
        if number == 1 and isinstance(value, Span):
            name = _text(data, value)
        elif number == 3 and isinstance(value, int):
            whole = value
        elif number == 5 and isinstance(value, Span):
            sizes = _tensor(data, value)[1]
        elif number in (7, 8, 9):  # numbers or texts, packed into one field or a field each
            count += value.end - value.start if isinstance(value, Span) else 1
        graphs = graphs or number in (6, 11, 22, 23)
        graphs = graphs or (number == 20 and value in _GRAPH_ATTRIBUTES)
    stated = (count,) if sizes is None and count else sizes or ()
    return graphs, _signed(whole) if name == "axis" else None, stated


def _tensor(data: mmap.mmap, span: Span) -> tuple[str, tuple[int, ...]]:
    name, sizes = "", list[int]()
    for number, value in fields(data, span):
        if number == 1:
            sizes += numbers(data, value)
            _check_count("axes", len(sizes), _MAX_AXES)
        elif number == 8 and isinstance(value, Span):
            name = _text(data, value)
    if min((_signed(size) for size in sizes), default=0) < 0:
        raise ValueError(f"a tensor of the sizes {[_signed(size) for size in sizes]}")
    return name, tuple(sizes)


def _shape(data: mmap.mmap, span: Span, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The values of a tensor that may be the sizes of another; None of any other."""
    if len(sizes) != 1 or sizes[0] > _MAX_AXES:
        return None
    kind, values, raw = 0, list[int](), b""
    for number, value in fields(data, span):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 7:
            values += numbers(data, value)
        elif number == 9 and isinstance(value, Span):
            raw = data[value.start : value.end]
    if raw and not values and len(raw) == 8 * sizes[0]:
        values = list(struct.unpack(f"<{sizes[0]}Q", raw))
    is_shape = kind == _INT64 and len(values) == sizes[0]
    return tuple(map(_signed, values)) if is_shape else None


def _ort(data: mmap.mmap) -> GraphFile:
    model = Table.root(data).table(1)
    graph = None if model is None else model.table(7)
    if graph is None:
        raise ValueError("no graph in it")
    nodes = []
    for node in graph.tables(2):
        attributes = node.tables(10)
        has_graph = any(each.number(2) in _GRAPH_ATTRIBUTES for each in attributes)
        nodes.append(Node(node.text(2), node.text(5), has_graph=has_graph))
        _check_count("nodes", len(nodes), _MAX_NODES)
    extras = ("sparse tensors",) if any(True for _ in graph.tables(7)) else ()
    return GraphFile(tuple(nodes), extras=extras)


def _text(data: mmap.mmap, span: Span) -> str:
    if span.end - span.start > _MAX_NAME:
        raise ValueError(f"a name of {span.end - span.start} bytes")
    return data[span.start : span.end].decode("utf-8", "replace")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _check_count(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise ValueError(f"more than {limit} {what}")


def elements(sizes: tuple[int, ...]) -> int:
    """How many values a tensor of these sizes has."""
    return math.prod(sizes)
