"""A tied head in the embedding's layout, against the product that it takes the place of."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvlm_export.onnx_passes import (
    ExternalWeights,
    HalfWeights,
    TieHead,
    UntieHead,
    WeightsFile,
    weights_files,
)

TABLE = np.random.default_rng(0).normal(size=(1100, 512)).astype(np.float32)  # (vocab, hidden)
IDS = np.array([[1], [63]])


def graph_of(nodes, weights, output, width):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 1])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 1, width])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def decoder():
    nodes = [
        helper.make_node("Gather", ["other", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["logits"]),
    ]
    return graph_of(
        nodes, {"other": TABLE[:64], "head": np.ascontiguousarray(TABLE.T)}, "logits", len(TABLE)
    )


def embedding():
    look = helper.make_node("Gather", ["table", "ids"], ["rows"])
    return graph_of([look], {"table": TABLE}, "rows", TABLE.shape[1])


def run(model):
    (result,) = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"ids": IDS})
    return result


def test_the_logits_are_the_same():
    model = decoder()
    TieHead()(model)
    assert "MatMul" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model), TABLE[IDS] @ TABLE.T, rtol=1e-4, atol=1e-3)


def test_untied_again_it_is_what_it_was():
    model = decoder()
    TieHead()(model)
    UntieHead()(model)
    assert [node.op_type for node in model.graph] == ["Gather", "MatMul"]
    assert len(model.graph.initializers) == 2
    np.testing.assert_array_equal(run(model), run(decoder()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_table_is_stored_once(precision, tmp_path):
    decoder_weights = WeightsFile(tmp_path / "decoder.onnx_data")
    files = {
        "decoder": decoder_weights,
        "embed": WeightsFile(tmp_path / "embed.onnx_data", decoder_weights),
    }
    models = {"decoder": decoder(), "embed": embedding()}
    TieHead()(models["decoder"])
    for name, model in models.items():
        if precision == "fp16":
            HalfWeights()(model)
        expected = run(model)
        ExternalWeights(files[name])(model)
        ir.save(model, tmp_path / f"{name}.onnx")
        (result,) = ort.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"ids": IDS})
        np.testing.assert_array_equal(result, expected)
        assert weights_files(tmp_path / f"{name}.onnx") == ("decoder.onnx_data",)
    assert not (tmp_path / "embed.onnx_data").exists()


def test_a_graph_needs_the_files_that_it_names(tmp_path):
    """Weights of two files, or of none where the graph or the format has them inside."""
    model = embedding()
    first, second = WeightsFile(tmp_path / "a.bin"), WeightsFile(tmp_path / "b.bin")
    model.graph.initializers["table"].const_value = first.store(ir.tensor(TABLE), "table")
    ir.save(model, tmp_path / "one.onnx")
    other = decoder()
    for file, name in ((first, "other"), (second, "head")):
        weight = other.graph.initializers[name]
        weight.const_value = file.store(weight.const_value, name)
    ir.save(other, tmp_path / "two.k7.onnx")
    ir.save(decoder(), tmp_path / "whole.onnx")
    (tmp_path / "graph.ort").write_bytes(b"ORTM")
    files = [weights_files(tmp_path / n) for n in ("one.onnx", "two.k7.onnx", "whole.onnx")]
    assert files == [("a.bin",), ("a.bin", "b.bin"), ()]
    assert weights_files(tmp_path / "graph.ort") == ()


def test_logits_that_no_weight_makes_are_refused():
    with pytest.raises(ir.passes.PreconditionError):
        TieHead()(embedding())
