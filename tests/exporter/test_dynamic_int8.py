"""The int8 precision, against onnxruntime.quantization's own."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from pocketvlm_export.onnx_passes import DynamicInt8, WeightsFile
from pocketvlm_export.onnx_passes.dynamic_int8 import quantize_columns, quantize_rows

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 5, 32)).astype(np.float32)
WEIGHTS = {
    "query": RANDOM.normal(size=(32, 48)).astype(np.float32),
    "key": RANDOM.normal(size=(32, 48)).astype(np.float32)
    * [[0.0] + [1.0] * 46 + [1e-3]],  # a column of zeros
    "out": RANDOM.normal(size=(48, 16)).astype(np.float32),
}
WEIGHTS = {name: weight.astype(np.float32) for name, weight in WEIGHTS.items()}


@pytest.fixture
def model():
    """Two products of one input, one of their sum, and one of two activations."""
    nodes = [
        helper.make_node("MatMul", ["x", "query"], ["q"]),
        helper.make_node("MatMul", ["x", "key"], ["k"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Add", ["q", "k"], ["sum"]),
        helper.make_node("MatMul", ["sum", "out"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 32])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5, n])
            for name, n in (("y", 16), ("scores", 5))
        ],
        [numpy_helper.from_array(weight, name) for name, weight in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def converted(model):
    changed = ir.from_proto(model)
    DynamicInt8()(changed)
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto):
    return ort.InferenceSession(proto.SerializeToString()).run(["y", "scores"], {"x": X})


def test_equal_to_what_onnxruntime_makes_of_it(model, tmp_path):
    onnx.save(model, tmp_path / "fp32.onnx")
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True},
    )
    theirs, ours = onnx.load(tmp_path / "int8.onnx"), converted(model)
    kinds = [sorted(node.op_type for node in graph.graph.node) for graph in (theirs, ours)]
    assert kinds[0] == kinds[1]
    assert kinds[0].count("DynamicQuantizeLinear") == 2  # q and k share theirs
    expected = {item.name: numpy_helper.to_array(item) for item in theirs.graph.initializer}
    initializers = {item.name: numpy_helper.to_array(item) for item in ours.graph.initializer}
    for number, name in enumerate(WEIGHTS):
        np.testing.assert_array_equal(
            initializers[f"{name}.int8.{number}"], expected[f"{name}_quantized"]
        )
        np.testing.assert_allclose(
            initializers[f"{name}.scale.{number}"], expected[f"{name}_scale"], rtol=1e-6
        )
    for a, b in zip(run(ours), run(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(run(ours), run(model), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max())


def test_onnxruntime_fuses_all_of_it(model, tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(
        converted(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"} <= kinds
    assert not {"MatMulInteger", "Cast"} & kinds


def test_a_weight_that_two_nodes_read_is_stored_once(model, tmp_path):
    """Under two names, each for one node; its bytes lie in the file once."""
    model.graph.node[1].input[1] = "query"
    del model.graph.initializer[1]
    changed = ir.from_proto(model)
    DynamicInt8()(changed)
    assert all(len(value.uses()) == 1 for value in changed.graph.initializers.values())
    file = WeightsFile(tmp_path / "weights")
    names = ["query.int8.0", "query.int8.1", "out.int8.2"]
    stored = [file.store(changed.graph.initializers[name].const_value, name) for name in names]
    assert stored[0].offset == stored[1].offset != stored[2].offset
    assert run(ir.to_proto(changed))[1].shape == (2, 5, 5)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    )
)
def test_every_column_is_within_half_a_step(weight):
    quantized, scale, zero = quantize_columns(weight)
    assert quantized.min() >= -127
    assert not zero.any()
    assert (np.abs(quantized * scale - weight) <= scale * 0.5001).all()


TABLES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(2, 9), st.integers(1, 9)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


def table_graph(table, *, returned):
    """Rows of a table by ids: as the graph's output, or as something that is added to."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows" if returned else "inside"])]
    if not returned:
        nodes.append(helper.make_node("Add", ["inside", "inside"], ["rows"]))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "tokens"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", "tokens", table.shape[1]])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@given(TABLES)
@settings(max_examples=25, deadline=None)
def test_rows_of_a_table_are_within_half_a_step(table):
    ids = np.arange(-1, len(table))[None].repeat(2, axis=0) % len(table)
    proto = converted(table_graph(table, returned=True))
    assert {node.op_type for node in proto.graph.node} == {"Gather", "Cast", "Mul"}
    assert not any(node.domain for node in proto.graph.node)  # any engine has them
    (rows,) = ort.InferenceSession(proto.SerializeToString()).run(["rows"], {"ids": ids})
    integers, scale = quantize_rows(table)
    np.testing.assert_array_equal(rows, (integers * scale)[ids])
    assert (np.abs(rows - table[ids]) <= scale[ids] * 0.5001).all()


def test_a_table_that_is_not_returned_stays_as_it_is():
    proto = converted(table_graph(np.eye(3, dtype=np.float32), returned=False))
    assert [node.op_type for node in proto.graph.node] == ["Gather", "Add"]
