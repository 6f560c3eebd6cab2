"""Every private or experimental API that the exporter uses still does what it is used for.

A failure here means that a new release changed one of them: `pocketvlm_export.upstream` is then the
one file to adapt. Passed with torch 2.13, transformers 5.23, onnxruntime 1.31, onnxscript 0.7,
huggingface_hub 2.4.
"""

import importlib
import logging

import huggingface_hub
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from pocketvlm_export import upstream
from pocketvlm_export.quiet import quiet_ort_tools
from support.tiny_hybrid import tiny_hybrid

LLAMA = transformers.LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
    max_position_embeddings=64,
    attn_implementation="eager",
)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(LLAMA).eval()


def composite(cls, **options):
    return cls(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **LLAMA.to_diff_dict()},
        **options,
    )


def idefics(cls, model_type):
    return cls(
        vision_config={"model_type": model_type, **VISION},
        text_config={"model_type": "llama", **LLAMA.to_diff_dict()},
        scale_factor=2,
    )


def test_the_tracers_logger_still_has_its_name():
    """torch 2.13."""
    module = importlib.import_module(upstream.TRACER_LOGGER)
    assert module.logger is logging.getLogger(upstream.TRACER_LOGGER)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_size_known_at_run_time_needs_its_bounds(bounded):
    """torch 2.13: `torch._check`. Without it the last of so many rows is not known to be one."""
    lengths = []

    class Last(nn.Module):
        def forward(self, scores, count):
            number = count.sum().item()
            if bounded:
                upstream.assume(number >= 1)
                upstream.assume(number <= scores.shape[1])
            last = torch.topk(scores, number, dim=1).values[:, -1:]
            lengths.append(last.shape[1])
            return last

    sample = torch.randn(2, 9), torch.tensor([2, 1])
    program = torch.export.export(Last().eval(), sample, strict=False)
    third = sample[0].sort(dim=1, descending=True).values[:, 2:3]
    np.testing.assert_array_equal(program.module()(*sample), third)
    assert isinstance(lengths[0], int) is bounded


def test_a_cache_is_made_of_tensors_and_read_back(llama):
    """transformers 5.23: `DynamicCache(ddp_cache_data=...)` and ``layers``."""
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.inference_mode():
        whole = llama(ids)
        first = llama(ids[:, :5], use_cache=True)
        past = upstream.cached_layers(first.past_key_values)
        assert [key.shape for key, _ in past] == [(1, 2, 5, 8)] * 2
        rest = llama(ids[:, 5:], past_key_values=upstream.cache_of(past), use_cache=True)
    np.testing.assert_allclose(rest.logits, whole.logits[:, 5:], atol=1e-5)
    assert upstream.cached_layers(rest.past_key_values)[1][0].shape == (1, 2, 8, 8)


def test_a_cache_of_convolutions_goes_on_from_their_last_inputs():
    model = tiny_hybrid()
    ids = torch.arange(3, 12)[None]
    with torch.inference_mode():
        whole = model(ids, use_cache=False).logits[0, -1]
        first = model(ids[:, :5], past_key_values=transformers.DynamicCache(config=model.config))
        past = upstream.cached_layers(first.past_key_values)
        rest = model(ids[:, 5:], past_key_values=upstream.cache_of(past), use_cache=True)
    assert [len(layer) for layer in past] == [
        1 if kind == "conv" else 2 for kind in model.config.layer_types
    ]
    assert past[0][0].shape == (1, 32, 3)
    torch.testing.assert_close(rest.logits[0, -1], whole, atol=2e-5, rtol=0)
    assert upstream.cached_layers(rest.past_key_values)[0][0].shape == (1, 32, 3)


NEXT = composite(transformers.LlavaNextConfig)
VIDEO = composite(transformers.VideoLlavaConfig)
IDEFICS3 = idefics(transformers.Idefics3Config, "idefics3_vision")
SMOLVLM = idefics(transformers.SmolVLMConfig, "smolvlm_vision")


@pytest.mark.parametrize(
    ("family", "projector", "config", "rows", "width"),
    [
        ("llava", "LlavaMultiModalProjector", composite(transformers.LlavaConfig), 4, 16),
        (
            "llava_next",
            "LlavaNextMultiModalProjector",
            composite(transformers.LlavaNextConfig),
            4,
            16,
        ),
        (
            "video_llava",
            "VideoLlavaMultiModalProjector",
            composite(transformers.VideoLlavaConfig),
            4,
            16,
        ),
        (
            "idefics3",
            "Idefics3Connector",
            idefics(transformers.Idefics3Config, "idefics3_vision"),
            4,
            16,
        ),
        (
            "smolvlm",
            "SmolVLMConnector",
            idefics(transformers.SmolVLMConfig, "smolvlm_vision"),
            4,
            16,
        ),
    ],
)
def test_projectors_are_built_of_a_configuration_alone(family, projector, config, rows, width):
    """transformers 5.23: undocumented modules of its models."""
    module = upstream.model_class(family, projector)(config).eval()
    merged = rows // config.scale_factor**2 if "Connector" in projector else rows
    with torch.inference_mode():
        assert module(torch.randn(1, rows, width)).shape == (1, merged, 32)
    if "Connector" in projector:  # the shuffle aside, a linear layer of patches side by side
        assert module.modality_projection.proj.in_features == width * config.scale_factor**2


def test_tiles_are_packed_as_llava_next_packs_them():
    """transformers 5.23: a picture of two tiles side by side, no padding to be cut away."""
    config = composite(transformers.LlavaNextConfig, image_grid_pinpoints=[[28, 56], [56, 28]])
    assert upstream.tile_grid((28, 56), config.image_grid_pinpoints, 28) == (1, 2)
    tiles = torch.arange(12.0).reshape(3, 4, 1)  # the whole, then left and right, 2 x 2 each
    packed = upstream.pack_image_features(config, tiles, (28, 56), torch.tensor([-1.0]))
    expected = [0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1]
    assert packed[:, 0].tolist() == expected


def test_llava_onevisions_order():
    """transformers 5.23: as LLaVA-NeXT's; more features than the limit are shrunk, and one of
    several pictures is a single tile."""
    config = composite(transformers.LlavaOnevisionConfig, image_grid_pinpoints=[[28, 56]])
    tiles, newline = torch.arange(12.0).reshape(3, 4, 1), torch.tensor([-1.0])

    def packed(tiles, limit):
        ratio = f"anyres_max_{limit}"
        return upstream.pack_onevision_features(config, tiles, (28, 56), newline, ratio)[:, 0]

    expected = [0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1]
    assert packed(tiles, 9).tolist() == expected
    assert packed(tiles, 1).tolist() == [0, 1, 2, 3, *packed(tiles, 1).tolist()[4:6], -1]
    assert packed(tiles[:1], 9).tolist() == [0, 1, 2, 3, -1]


def test_the_text_around_smolvlms_tiles():
    """transformers 5.23: a function of the processor's module."""
    whole = "<around><whole><image><around>"
    assert upstream.image_prompt(0, 0, 1, "<around>", "<image>", "<whole>") == whole
    text = upstream.image_prompt(1, 2, 2, "<around>", "<image>", "<whole>")
    assert text.count("<image>") == 2 * 3
    assert "<around><row_1_col_1><image><image><around><row_1_col_2>" in text


def test_four_bits_are_scaled_by_the_block():
    """onnxruntime 1.31: values q - 8 times the scale, the scale the block's extreme over -8."""
    weight = RANDOM.normal(size=(64, 3)).astype(np.float32)
    packed = np.zeros((3, 2, 16), np.uint8)
    scale, zero = np.zeros((3, 2), np.float32), np.zeros((3, 1), np.uint8)
    upstream.quantize_4bit(packed, weight, scale, zero, 32, 64)
    blocks = weight.T.reshape(3, 2, 32)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    np.testing.assert_allclose(scale, extreme[..., 0] / -8, rtol=1e-6)
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(3, 2, 32).astype(np.float32) - 8
    off = np.abs(values * scale[..., None] - blocks)
    assert (off <= np.abs(scale[..., None]) * 1.001).all()


def test_eight_bits_are_rounded_to_the_nearest():
    """onnxruntime 1.31."""
    assert upstream.int8_range() == (-127, 127)
    weight = RANDOM.normal(size=(5, 3)).astype(np.float32)
    scale = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    rounded = upstream.quantize_int8(weight, scale)
    assert rounded.dtype == np.int8
    np.testing.assert_array_equal(rounded, np.rint(weight / scale).clip(-127, 127))


def test_norms_and_sums_are_fused():
    """onnxscript 0.7: y = norm(a + b) as torch's exporter writes it, and its values."""
    x = RANDOM.normal(size=(1, 3, 32)).astype(np.float32)

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = transformers.models.llama.modeling_llama.LlamaRMSNorm(32)
            self.second = transformers.models.llama.modeling_llama.LlamaRMSNorm(32)

        def forward(self, a, b):
            total = a + b
            return self.second(total + self.first(total)) + total

    module = Norm().eval()
    nn.init.normal_(module.first.weight)
    sample = torch.from_numpy(x), torch.from_numpy(x[:, ::-1].copy())
    model = torch.onnx.export(module, sample, dynamo=True, opset_version=20, verbose=False).model
    assert upstream.fuse_norms(model) == 2
    assert upstream.fuse_skip_norms(model) >= 1
    model.graph.sort()
    model.opset_imports["com.microsoft"] = 1
    kinds = {node.op_type for node in model.graph}
    assert "SkipSimplifiedLayerNormalization" in kinds
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    names = [value.name for value in session.get_inputs()]
    feed = dict(zip(names, (value.numpy() for value in sample), strict=True))
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(None, feed)[0], module(*sample), atol=1e-5)


def test_graphs_are_converted_and_their_operators_listed(tmp_path):
    """onnxruntime 1.31: the functions behind its tools, and the logging that they would set up."""
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (tmp_path / "onnx").mkdir()
    onnx.save(model, tmp_path / "onnx" / "graph.onnx")
    handlers = list(logging.getLogger().handlers)
    with quiet_ort_tools():
        upstream.convert_to_ort(tmp_path / "onnx", tmp_path / "ort")
        files = list((tmp_path / "ort").glob("*.ort"))
        upstream.write_required_operators(files, tmp_path / "operators.config")
    assert logging.getLogger().handlers == handlers
    assert [file.name for file in files] == ["graph.ort"]
    given = np.array([0.5, 1.0], np.float32)
    (sine,) = ort.InferenceSession(files[0]).run(None, {"x": given})
    np.testing.assert_allclose(sine, np.sin(given), rtol=1e-6)
    assert "Sin" in (tmp_path / "operators.config").read_text()


def test_the_hubs_transport_errors_have_a_base_class():
    """huggingface_hub 2.4."""
    with pytest.raises(upstream.HubTransportError):
        huggingface_hub.get_session().get("http://127.0.0.1:9/nobody-listens-here")


@pytest.mark.parametrize("size", [(28, 28), (21, 35), (56, 42), (30, 30)], ids=str)
def test_positions_are_stretched_as_the_model_stretches_them(size):
    """transformers 5.23: what DINOv2's embeddings add to [CLS] and patches."""
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7
    )
    embeddings = transformers.Dinov2Model(config).eval().embeddings
    pixels = torch.randn(1, 3, *size)
    with torch.inference_mode():
        plain = torch.cat([embeddings.cls_token, embeddings.patch_embeddings(pixels)], dim=1)
        expected = embeddings(pixels) - plain
    positions = upstream.stretched_positions(embeddings, size)
    np.testing.assert_allclose(positions, expected, atol=1e-6)
    if size == (28, 28):
        assert torch.equal(positions, embeddings.position_embeddings)


def test_gelu_of_the_projector_is_the_exact_one():
    """transformers 5.23: LLaVA's projector by its formula, so that a changed default is noticed."""
    projector = upstream.model_class("llava", "LlavaMultiModalProjector")
    module = projector(composite(transformers.LlavaConfig)).eval()
    x = torch.randn(2, 16)
    with torch.inference_mode():
        expected = module.linear_2(functional.gelu(module.linear_1(x)))
        np.testing.assert_allclose(module(x), expected, atol=1e-6)


def test_a_class_that_transformers_has_not_is_an_import_error():
    """transformers 5.23: so that another release is named as one."""
    with pytest.raises(ImportError, match="cannot import name 'NoSuchClass' from"):
        upstream.model_class("llava", "NoSuchClass")


def attention_model():
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    torch.manual_seed(0)
    return transformers.CLIPVisionModel(config).eval()


def test_recorded_attention_is_what_eager_attention_returns():
    """transformers 5.23: a registered attention function, and the maps of the layers asked for."""
    model, pixels = attention_model(), torch.randn(1, 3, 28, 28)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        eager = model(pixels, output_attentions=True)
        model.set_attn_implementation(upstream.recording_attention())
        with upstream.recorded_attention(1) as layers:
            recorded = model(pixels)
    assert [len(maps) for maps in layers.values()] == [0, 1, 1]
    for maps, expected in list(zip(layers.values(), eager.attentions, strict=True))[1:]:
        torch.testing.assert_close(maps[0], expected[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(recorded.last_hidden_state, eager.last_hidden_state)


def test_nothing_is_recorded_without_being_asked_for():
    """transformers 5.23."""
    model, pixels = attention_model(), torch.randn(1, 3, 28, 28)
    model.set_attn_implementation(upstream.recording_attention())
    with torch.inference_mode(), upstream.recorded_attention(None) as layers:
        model(pixels)
    model(pixels)
    assert [len(maps) for maps in layers.values()] == [0, 0, 0]


def test_qwen2_vls_tower_has_the_parts_that_are_exported():
    """transformers 5.23: the class, which transformers does not export, and its parts."""
    config = transformers.Qwen2VLConfig().vision_config
    config.depth, config.embed_dim, config.num_heads = 1, 16, 2
    tower = upstream.model_class("qwen2_vl", "Qwen2VisionTransformerPretrainedModel")(config)
    assert tower.config_class.model_type == config.model_type == "qwen2_vl_vision"
    assert tower.patch_embed.proj.weight.shape == (16, 3, 2, 14, 14)
    assert tower.blocks[0].attn.qkv.out_features == 48
    assert tower.merger.ln_q.normalized_shape == (16,)
    assert tower.merger.mlp[0].in_features == 64
