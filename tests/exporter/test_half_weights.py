"""The fp16 precision: what becomes of a weight, by how it is read."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from pocketvlm_export.onnx_passes import HalfWeights

TABLE = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
IDS = np.array([[1, 63, 1], [0, 5, 7]])


def halved(nodes, outputs):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "m"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m", width])
            for name, width in outputs.items()
        ],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    HalfWeights()(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto, ort.InferenceSession(proto.SerializeToString()).run(list(outputs), {"ids": IDS})


def test_rows_are_cast_after_they_are_looked_up():
    proto, (rows,) = halved([helper.make_node("Gather", ["table", "ids"], ["rows"])], {"rows": 32})
    assert [node.op_type for node in proto.graph.node] == ["Gather", "Cast"]
    assert [item.data_type for item in proto.graph.initializer] == [TensorProto.FLOAT16]
    np.testing.assert_array_equal(rows, TABLE.astype(np.float16).astype(np.float32)[IDS])


def test_a_table_that_is_multiplied_too():
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "turned"], ["logits"]),
    ]
    proto, (logits,) = halved(nodes, {"logits": 64})
    assert len(proto.graph.initializer) == 1
    half = TABLE.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(logits, half[IDS] @ half.T, atol=1e-4)
