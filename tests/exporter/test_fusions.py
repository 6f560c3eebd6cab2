"""Fusions: each pass by itself leaves the results of a traced graph as they were, and refuses what
is not its own."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from make_checkpoint import PRESETS
from pocketvlm import PocketVLMError
from pocketvlm.artifact import metadata
from pocketvlm_export.graphs import DecoderGraph, PrunedVisionEncoder, VisionEncoderGraph, trace
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes import (
    FUSIONS,
    GroupQueryAttention,
    MultiHeadAttention,
    Rotary,
    SkipNorms,
    fuse,
    tidy,
)
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.quiet import quiet_transformers

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500.0,
}
RANDOM = np.random.default_rng(0)


def traced(graph):
    model = trace(graph)
    tidy(model, graph.output_axes)
    return model


@pytest.fixture(
    scope="module",
    params=[
        ("tiny-qwen2", {}),
        ("tiny-qwen3", {}),
        ("tiny-mistral", {"sliding_window": 5}),
        ("tiny-llama", {"head_dim": 24, "rope_parameters": YARN, "num_key_value_heads": 4}),
    ],
    ids=[
        "qwen2",
        "qwen3, whose heads are normed",
        "mistral with a window",
        "llama without groups, yarn",
    ],
)
def decoder(request, make_tiny):
    """A traced decoder and its dimensions."""
    preset, text = request.param
    checkpoint = open_checkpoint(str(make_tiny(PRESETS[preset].but(text=text))))
    spec = checkpoint.spec.decoder
    with quiet_transformers():
        model = checkpoint.family.load_decoder(
            checkpoint.weights, checkpoint.spec, attention="eager"
        )
        return traced(DecoderGraph(model, spec)), spec


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-dinov2"], ids=["clip", "dinov2"])
def tower(request, make_tiny):
    checkpoint = open_checkpoint(str(make_tiny(request.param)))
    family, spec = checkpoint.family, checkpoint.spec
    with quiet_transformers():
        model = family.load_tower(
            checkpoint.weights, spec, layers=spec.vision.depth, attention="eager"
        )
        projector = family.load_projector(checkpoint.weights, spec)
        pruner = make_pruner("fastervlm", {})
        return traced(
            VisionEncoderGraph(PrunedVisionEncoder(model, projector, spec.vision, pruner, 9))
        )


def run(model, feed):
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return dict(
        zip([value.name for value in session.get_outputs()], session.run(None, feed), strict=True)
    )


def sequence(rows, past, tokens, spec, mask=None):
    """What a decoder reads: ``tokens`` after a ``past``, for each of ``rows``."""
    size = (rows, spec.kv_heads, past, spec.head_dim)
    cache = {
        f"past_key_values.{layer}.{kind}": RANDOM.normal(size=size).astype(np.float32)
        for layer in range(spec.layers)
        for kind in ("key", "value")
    }
    return {
        "inputs_embeds": RANDOM.normal(size=(rows, tokens, 64)).astype(np.float32),
        "attention_mask": np.ones((rows, past + tokens), np.int64)
        if mask is None
        else np.array(mask),
        "position_ids": np.tile(np.arange(past, past + tokens), (rows, 1)),
        **cache,
    }


@pytest.mark.parametrize("fusion", FUSIONS[metadata.DECODER])
def test_a_decoder_answers_as_before(decoder, fusion):
    model, spec = decoder
    fused = model.clone()
    fusion()(fused)
    assert {node.domain for node in fused.graph} >= {"com.microsoft"} or fusion is SkipNorms
    for rows, past, tokens in ((1, 0, 9), (2, 0, 7), (1, 6, 5), (3, 8, 1)):
        feed = sequence(rows, past, tokens, spec)
        expected, result = run(model, feed), run(fused, feed)
        assert expected.keys() == result.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(
                result[name], value, atol=1e-4, err_msg=f"{name}, {(rows, past, tokens)}"
            )


def test_padding_on_the_left_stays_unseen(decoder):
    model, spec = decoder
    fused = model.clone()
    fuse(fused, metadata.DECODER)
    mask = [[1] * 7, [0] * 3 + [1] * 4]
    feed = sequence(2, 0, 7, spec, mask)
    np.testing.assert_allclose(run(fused, feed)["logits"], run(model, feed)["logits"], atol=1e-4)


def test_everything_is_fused(decoder):
    model, spec = decoder
    fused = model.clone()
    fuse(fused, metadata.DECODER)
    kinds = [node.op_type for node in fused.graph]
    assert kinds.count("GroupQueryAttention") == spec.layers
    assert kinds.count("SkipSimplifiedLayerNormalization") == 2 * spec.layers
    assert kinds.count("RotaryEmbedding") == 2 * spec.layers
    assert not {"Softmax", "Neg", "Reciprocal"} & set(kinds)
    shapes = [
        {value.name: value.shape for value in graph.outputs} for graph in (fused.graph, model.graph)
    ]
    assert shapes[0] == shapes[1]
    assert [value.name for value in fused.graph.inputs] == [
        value.name for value in model.graph.inputs
    ]


def test_a_tower_sees_as_before(tower):
    fused = tower.clone()
    fuse(fused, metadata.VISION_ENCODER)
    kinds = [node.op_type for node in fused.graph]
    assert (
        kinds.count("MultiHeadAttention")
        == [node.op_type for node in tower.graph].count("Softmax") - 1
    )
    assert kinds.count("Softmax") == 1  # the row that ranks patches
    feed = {"pixel_values": RANDOM.normal(size=(2, 3, 42, 42)).astype(np.float32)}
    expected, result = run(tower, feed), run(fused, feed)
    np.testing.assert_array_equal(result["kept_indices"], expected["kept_indices"])
    for name in ("image_features", "kept_scores"):
        np.testing.assert_allclose(result[name], expected[name], atol=1e-4)


@pytest.mark.parametrize("fusion", [GroupQueryAttention, MultiHeadAttention, Rotary, SkipNorms])
def test_a_graph_without_it_is_refused(fusion):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "test", [x], [y])
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    with pytest.raises(ir.passes.PreconditionError):
        fusion()(model)
    if fusion is not MultiHeadAttention:
        return
    with pytest.raises(
        PocketVLMError, match=r"MultiHeadAttention cannot be put into .* export with --portable"
    ):
        fuse(model, metadata.VISION_ENCODER)
