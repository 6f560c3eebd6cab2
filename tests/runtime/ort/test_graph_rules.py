"""Graphs that would compute or allocate without end are refused before ONNX Runtime sees them."""

import contextlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pocketvlm import VLM, PocketVLMError
from pocketvlm.errors import ArtifactError
from pocketvlm.ort.graph_files import read_graph_file
from pocketvlm.ort.graph_rules import check_graph
from support.tiny_artifact import read_manifest, write_artifact, write_manifest
from support.tiny_graphs import Weights, decoder_graph, embed_graph, vision_graph

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def graph_of(nodes, constants=None, **parts):
    """A model from x to y, floats of one axis."""
    initializers = [
        numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()
    ]
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], initializers)
    for sparse in parts.pop("sparse", ()):
        graph.sparse_initializer.append(sparse)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **parts)


def body(name, inputs, outputs):
    """A graph within a node, which gives its last inputs back."""
    kinds = {"i": INT64, "go": BOOL}
    values = [helper.make_tensor_value_info(each, kinds.get(each, FLOAT), None) for each in inputs]
    nodes = [
        node("Identity", [each], [other])
        for each, other in zip(inputs[-len(outputs) :], outputs, strict=True)
    ]
    results = [
        helper.make_tensor_value_info(other, kinds.get(each, FLOAT), None)
        for each, other in zip(inputs[-len(outputs) :], outputs, strict=True)
    ]
    return helper.make_graph(nodes, name, values, results)


def branch(output):
    result = helper.make_tensor_value_info(output, FLOAT, None)
    return helper.make_graph([node("Neg", ["x"], [output])], output, [], [result])


def doubling_functions(depth):
    """Each calls the next twice."""
    return [
        helper.make_function(
            "local",
            f"F{number}",
            ["a"],
            ["c"],
            [
                node(f"F{number + 1}", ["a"], ["b"], domain="local"),
                node(f"F{number + 1}", ["b"], ["c"], domain="local"),
            ]
            if number + 1 < depth
            else [node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["c"])],
            [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)],
        )
        for number in range(depth)
    ]


def sparse(size):
    values = helper.make_tensor("c", FLOAT, [1], [1.0])
    indices = helper.make_tensor("c_indices", INT64, [1], [0])
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[size])


def repeated(each, count):
    """A model of one node so many times, as bytes: as many objects would take seconds."""
    content = each.SerializeToString()
    nodes = (b"\x0a" + bytes([len(content)]) + content) * count
    model = onnx.ModelProto(graph=onnx.GraphProto()).SerializeToString()
    size = len(nodes)
    varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
    return model + b"\x3a" + varint + nodes


ADDED = [node("Add", ["x", "c"], ["y"])]
HUGE = 1 << 31
HOSTILE = {
    "a loop": lambda: graph_of(
        [node("Loop", ["trips", "go", "x"], ["y"], body=body("b", ["i", "go", "a"], ["o", "z"]))],
        {"trips": np.int64(1 << 60), "go": True},
    ),
    "a branch": lambda: graph_of(
        [
            node("ReduceMax", ["x"], ["largest"], keepdims=0),
            node("IsInf", ["largest"], ["inf"]),
            node(
                "If",
                ["inf"],
                ["y"],
                then_branch=branch("one"),
                else_branch=branch("two"),
            ),
        ]
    ),
    "a scan": lambda: graph_of(
        [node("Scan", ["x"], ["y"], num_scan_inputs=1, body=body("s", ["a"], ["o"]))]
    ),
    "a sequence map": lambda: graph_of(
        [
            node("SplitToSequence", ["x"], ["s"]),
            node("SequenceMap", ["s"], ["m"], body=body("m", ["a"], ["o"])),
            node("ConcatFromSequence", ["m"], ["y"], axis=0),
        ]
    ),
    "functions that call functions": lambda: graph_of(
        [node("F0", ["x"], ["y"], domain="local")], functions=doubling_functions(60)
    ),
    "a custom operator": lambda: graph_of([node("Run", ["x"], ["y"], domain="somebody")]),
    "another's file": lambda: graph_of([node("EPContext", ["x"], ["y"], domain="com.microsoft")]),
    "a generator": lambda: graph_of([node("RandomNormal", [], ["c"], shape=[HUGE, HUGE]), *ADDED]),
    "noise": lambda: graph_of([node("RandomUniformLike", ["x"], ["y"])]),
    "a constant of a shape": lambda: graph_of(
        [node("ConstantOfShape", ["size"], ["c"]), *ADDED], {"size": [HUGE]}
    ),
    "a constant of a shape in an attribute": lambda: graph_of(
        [
            node("Constant", [], ["size"], value_ints=[HUGE]),
            node("ConstantOfShape", ["size"], ["c"]),
            *ADDED,
        ]
    ),
    "a range": lambda: graph_of(
        [node("Range", ["from", "to", "step"], ["c"]), *ADDED],
        {"from": np.float32(0), "to": np.float32(HUGE), "step": np.float32(1)},
    ),
    "tiles": lambda: graph_of(
        [node("Tile", ["one", "times"], ["c"]), *ADDED],
        {"one": np.ones(1, np.float32), "times": [HUGE]},
    ),
    "an expansion": lambda: graph_of(
        [node("Expand", ["one", "size"], ["c"]), *ADDED],
        {"one": np.ones(1, np.float32), "size": [HUGE]},
    ),
    "margins": lambda: graph_of(
        [node("Pad", ["one", "margins"], ["c"]), *ADDED],
        {"one": np.ones(1, np.float32), "margins": [HUGE, HUGE]},
    ),
    "doubling": lambda: graph_of(
        [
            *(
                node("Concat", [f"c{step}", f"c{step}"], [f"c{step + 1}"], axis=0)
                for step in range(40)
            ),
            node("Add", ["x", "c40"], ["y"]),
        ],
        {"c0": np.ones(1, np.float32)},
    ),
    "an outer product": lambda: graph_of(
        [node("Mul", ["column", "row"], ["c"]), *ADDED],
        {"column": np.ones((60_000, 1), np.float32), "row": np.ones((1, 60_000), np.float32)},
    ),
    "gathered again and again": lambda: graph_of(
        [
            node("Gather", ["table", "rows"], ["more"]),
            node("Gather", ["more", "columns"], ["c"], axis=-1),
            node("ReduceSum", ["x"], ["total"]),
            node("Identity", ["total"], ["y"]),
        ],
        {
            "table": np.ones((1, 1), np.float32),
            "rows": np.zeros(20_000, np.int64),
            "columns": np.zeros(20_000, np.int64),
        },
    ),
    "constants put through many nodes": lambda: graph_of(
        [
            *(node("Neg", [f"c{step}"], [f"c{step + 1}"]) for step in range(2_000)),
            node("Add", ["x", "c2000"], ["y"]),
        ],
        {"c0": np.ones(1 << 16, np.float32)},
    ),
    "a stretch of numbers in an attribute": lambda: graph_of(
        [
            node("Constant", [], ["row"], value_floats=[1.0] * 20_000),
            node("Mul", ["row", "column"], ["c"]),
            *ADDED,
        ],
        {"column": np.ones((20_000, 1), np.float32)},
    ),
    "a sparse tensor": lambda: graph_of(ADDED, sparse=[sparse(HUGE)]),
    "a sparse constant": lambda: graph_of(
        [node("Constant", [], ["c"], sparse_value=sparse(HUGE)), *ADDED]
    ),
    "nodes without end": lambda: repeated(node("Neg", ["x"], ["y"]), 30_001),
    "a name without end": lambda: graph_of(
        [node("Neg", ["x"], ["n" * 100_000]), node("Neg", ["n" * 100_000], ["y"])]
    ),
}


def write(model, folder, name="graph.onnx"):
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused_in_one_line(kind, tmp_path):
    with pytest.raises(ArtifactError) as refused:
        check_graph("graph.onnx", write(HOSTILE[kind](), tmp_path))
    assert len(str(refused.value).splitlines()) == 1
    assert "graph.onnx" in str(refused.value)


def test_before_anything_is_opened(tmp_path):
    write_artifact(tmp_path / "a")
    write(HOSTILE["functions that call functions"](), tmp_path / "a/onnx", "embed_tokens.onnx")
    write_manifest(tmp_path / "a", read_manifest(tmp_path / "a"))
    with pytest.raises(ArtifactError, match=r"embed_tokens\.onnx has functions"):
        VLM.load(tmp_path / "a")


SOUND = [
    *(vision_graph(Weights.random(20, 0), 6, dynamic=dynamic) for dynamic in (False, True)),
    embed_graph(Weights.random(20, 0)),
    decoder_graph(Weights.random(20, 0)),
]


OF_CONSTANTS = {
    "which patches are the same": [
        node("Equal", ["column", "row"], ["same"]),
        node("Where", ["same", "row", "column"], ["c"]),
    ],
    "angles": [
        node("Mul", ["row", "column"], ["angles"]),
        node("Cos", ["angles"], ["cosines"]),
        node("Sin", ["angles"], ["sines"]),
        node("Concat", ["cosines", "sines"], ["both"], axis=-1),
        node("Reshape", ["both", "flat"], ["c"]),
    ],
    "a stretched row": [
        node("Expand", ["row", "square"], ["rows"]),
        node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2))),
        node("Mul", ["rows", "two"], ["c"]),
    ],
}


@pytest.mark.parametrize("kind", OF_CONSTANTS)
def test_what_towers_compute_of_constants_is_sound(kind, tmp_path):
    """At the sizes of real towers, where the exporter's optimizer leaves it in the graph."""
    constants = {
        "row": np.arange(1024, dtype=np.float32)[None],
        "column": np.arange(1024, dtype=np.float32)[:, None],
        "flat": [-1],
        "square": [1024, 1024],
    }
    path = write(graph_of([*OF_CONSTANTS[kind], *ADDED], constants), tmp_path)
    assert check_graph("graph", path) == 1024
    assert read_graph_file(path).shapes == {"flat": (-1,), "square": (1024, 1024)}


@pytest.mark.parametrize("number", range(len(SOUND)))
def test_what_is_read_is_what_onnx_reads(number, tmp_path):
    model = SOUND[number]
    graph = read_graph_file(write(model, tmp_path))
    assert [(n.domain, n.op, n.inputs, n.outputs) for n in graph.nodes] == [
        (n.domain, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node
    ]
    assert graph.constants == {each.name: tuple(each.dims) for each in model.graph.initializer}
    assert graph.extras == ()
    largest = max(np.prod(each.dims) for each in model.graph.initializer)
    assert check_graph("graph", tmp_path / "graph.onnx") == largest


def test_a_graph_in_several_parts_is_read_whole(tmp_path):
    """A message that comes twice is one: what comes later is put behind."""
    loop = HOSTILE["a loop"]().graph
    later = onnx.ModelProto()
    later.graph.node.extend(loop.node)
    content = embed_graph(Weights.random(20, 0)).SerializeToString() + later.SerializeToString()
    assert len(onnx.load_from_string(content).graph.node) == 2
    with pytest.raises(ArtifactError, match="the operator Loop"):
        check_graph("graph", write(content, tmp_path))


def test_a_field_that_others_cut_to_32_bits_is_refused(tmp_path):
    """Field 7 of a model is its graph; with bit 32 set some readers take it for that."""
    tag = (7 << 3 | 2) | 1 << 32
    varint = bytes([tag & 0x7F | 0x80, *([0x80] * 3), tag >> 28])
    graph = HOSTILE["a loop"]().graph.SerializeToString()
    with pytest.raises(ArtifactError, match="cannot be read as a graph"):
        check_graph("graph", write(varint + bytes([len(graph) & 0x7F, 0]), tmp_path))


@given(st.data())
def test_damaged_graphs_are_read_or_refused(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(SOUND)).SerializeToString())
    end = data.draw(st.integers(0, len(content)))
    del content[end:]
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(bytes(content), tmp_path_factory.getbasetemp(), "damaged.onnx")
    with contextlib.suppress(PocketVLMError):
        check_graph("damaged", path)


def as_ort(model, path):
    """What ONNX Runtime makes of a model in ORT format."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return path


@pytest.mark.parametrize("number", range(len(SOUND)))
def test_ort_format_is_read_too(number, tmp_path):
    path = as_ort(SOUND[number], tmp_path / "graph.ort")
    assert check_graph("graph", path) == 0
    nodes = read_graph_file(path).nodes
    assert {"Gather", "Conv", "MatMul"} & {each.op for each in nodes}
    assert not any(each.has_graph for each in nodes)
    with pytest.raises(ArtifactError, match="that of another format"):
        check_graph("graph", path.rename(tmp_path / "graph.onnx"))


@pytest.mark.parametrize("kind", ["a loop", "a branch", "a scan"])
def test_and_its_loops_are_refused(kind, tmp_path):
    model = HOSTILE[kind]()
    path = as_ort(model, tmp_path / "graph.ort")
    with pytest.raises(ArtifactError, match=r"has the operator (Loop|If|Scan)"):
        check_graph("graph", path)


@given(st.data())
def test_damaged_ort_files_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "sound.ort").exists():
        as_ort(SOUND[2], folder / "sound.ort")
    content = bytearray((folder / "sound.ort").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    path = write(bytes(content), folder, "damaged.ort")
    with contextlib.suppress(PocketVLMError):
        check_graph("damaged", path)
