"""The 4-bit precisions, against onnxruntime.quantization's own, and numpy."""

import copy

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from pocketvlm_export.onnx_passes import BlockInt4, ExternalWeights, WeightsFile
from pocketvlm_export.onnx_passes.block_int4 import quantize_blocks

RANDOM = np.random.default_rng(0)
IDS = np.array([[1, 63, 1], [0, 5, 7]])


def graph_of(nodes, weights, outputs):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "m"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m", width])
            for name, width in outputs.items()
        ],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def converted(model, block):
    changed = ir.from_proto(model)
    BlockInt4(block)(changed)
    return changed


def run(model):
    return ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"ids": IDS})


def unpacked(packed, scale, block):
    """(outputs, blocks, block / 2) and (outputs, blocks) -> float32 (inputs, outputs)."""
    low, high = packed & 15, packed >> 4
    values = np.stack([low, high], axis=-1).reshape(*packed.shape[:2], block).astype(np.float32) - 8
    return (values * scale[..., None]).reshape(len(packed), -1).T


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("inputs", [96, 256])
def test_equal_to_what_onnxruntime_makes_of_it(block, inputs):
    weight = RANDOM.normal(size=(inputs, 24)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["ids"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["y"]),
    ]
    model = graph_of(nodes, {"weight": weight}, {"y": 24})
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = inputs
    quantizer = MatMulNBitsQuantizer(
        copy.deepcopy(model), block_size=block, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    theirs, ours = quantizer.model.model, ir.to_proto(converted(model, block))
    node, expected = (
        next(node for node in graph.graph.node if node.op_type == "MatMulNBits")
        for graph in (ours, theirs)
    )
    assert {a.name: a.i for a in node.attribute} == {a.name: a.i for a in expected.attribute}
    stored = {item.name: numpy_helper.to_array(item) for item in theirs.graph.initializer}
    initializers = {item.name: numpy_helper.to_array(item) for item in ours.graph.initializer}
    assert initializers.keys() == {"weight.int4", "weight.scale"}
    for mine, other in zip(node.input[1:3], expected.input[1:3], strict=True):
        np.testing.assert_array_equal(initializers[mine].ravel(), stored[other].ravel())


@pytest.mark.parametrize("block", [32, 128])
def test_blocks_say_what_they_stand_for(block):
    weight = RANDOM.normal(size=(256, 8)).astype(np.float32)
    packed, scale = quantize_blocks(weight, block)
    step = np.repeat(np.abs(scale).T, block, axis=0)
    # The largest of a block becomes -8, its opposite is cut at 7.
    assert (np.abs(unpacked(packed, scale, block) - weight) <= step * 1.001).all()


@pytest.mark.parametrize(("block", "width"), [(32, 64), (128, 128), (128, 64)])
def test_rows_and_products_of_one_table(block, width):
    table = RANDOM.normal(size=(64, width)).astype(np.float32)
    rows, nodes = unpacked(*quantize_blocks(table.T, block), block).T[:, :width], []
    nodes.append(helper.make_node("Gather", ["table", "ids"], ["rows"]))
    (result,) = run(converted(graph_of(nodes, {"table": table}, {"rows": width}), block))
    np.testing.assert_allclose(result, rows[IDS], rtol=1e-6)
    nodes.append(helper.make_node("MatMul", ["rows", "head"], ["logits"]))
    model = graph_of(nodes, {"table": table, "head": table.T.copy()}, {"logits": 64})
    (logits,) = run(converted(model, block))
    expected = rows[IDS] @ rows.T
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())


def test_a_tied_table_is_stored_once(tmp_path):
    table = RANDOM.normal(size=(2560, 1024)).astype(np.float32)
    look = graph_of(
        [helper.make_node("Gather", ["table", "ids"], ["rows"])], {"table": table}, {"rows": 1024}
    )
    nodes = [
        helper.make_node("Gather", ["other", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["logits"]),
    ]
    weights = {"other": RANDOM.normal(size=(64, 1024)).astype(np.float32), "head": table.T.copy()}
    decoder = WeightsFile(tmp_path / "decoder.onnx_data")
    files = {"decoder": decoder, "embed": WeightsFile(tmp_path / "embed.onnx_data", decoder)}
    for name, model in {
        "decoder": graph_of(nodes, weights, {"logits": 2560}),
        "embed": look,
    }.items():
        expected = run(converted(model, 32))
        stored = converted(model, 32)
        ExternalWeights(files[name])(stored)
        ir.save(stored, tmp_path / f"{name}.onnx")
        result = ort.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"ids": IDS})
        np.testing.assert_array_equal(result, expected)
    assert not (tmp_path / "embed.onnx_data").exists()
