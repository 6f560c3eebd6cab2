"""A tiny random decoder with layers of convolutions (LFM2) on both engines, made as an export makes
it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import Lfm2Config, Lfm2ForCausalLM

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import DecoderSpec
from pocketvlm.decoders.base import EmbeddingSegment, Segment, TokenSegment
from pocketvlm.decoders.onnx import Graphs, OnnxDecoder
from pocketvlm.ort.signatures import signature
from pocketvlm_export.families.text_models import decoder_spec
from pocketvlm_export.graphs import DecoderGraph, trace
from pocketvlm_export.onnx_passes import fuse, tidy
from pocketvlm_export.quiet import quiet_transformers

VOCAB, HIDDEN, CONTEXT = 256, 32, 512
# How a checkpoint's weights are called, by how this model calls them.
PREFIXES = {"model.": "decoder.model.", "lm_head.": "decoder.lm_head."}
LAYER_TYPES = ["conv", "conv", "full_attention", "conv", "full_attention", "conv"]


def tiny_hybrid(**changed: Any) -> Lfm2ForCausalLM:
    """The model, seeded, with weights far enough from zero that every part of it shows."""
    torch.manual_seed(0)
    stated = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": len(LAYER_TYPES),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "layer_types": LAYER_TYPES,
        "block_multiple_of": 16,
        "initializer_range": 0.2,
    }
    model = Lfm2ForCausalLM(Lfm2Config(**(stated | changed))).eval()
    model.set_attn_implementation("eager")  # as families load decoders
    assert isinstance(model, Lfm2ForCausalLM)
    return model


def spec_of(model: Lfm2ForCausalLM) -> Any:
    """The exporter's reading of it, as part of a vision-language model."""
    whole = SimpleNamespace(
        text_config=model.config, tie_word_embeddings=True, model_type="lfm2_vl"
    )
    return decoder_spec(whole)


def manifest_spec(model: Lfm2ForCausalLM) -> DecoderSpec:
    """What a manifest says of it."""
    spec = spec_of(model)
    return DecoderSpec(
        engines=("onnx",),
        default_engine="onnx",
        default_precisions={"onnx": "fp32"},
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        hidden=spec.hidden,
        vocab=spec.vocab,
        context=spec.context,
        image_token_id=VOCAB - 1,
        eos_token_ids=(2,),
        conv_layers=spec.conv_layers,
        conv_width=spec.conv_width,
    )


def onnx_decoder(model: Lfm2ForCausalLM, *, fused: bool = True) -> OnnxDecoder:
    """The decoder as an export makes it."""
    stated = manifest_spec(model)
    with quiet_transformers():
        graph = DecoderGraph(model, spec_of(model))
        traced = trace(graph)
    tidy(traced, graph.output_axes)
    if fused:
        fuse(traced, metadata.DECODER)
    session = ort.InferenceSession(ir.to_proto(traced).SerializeToString())
    manifest: Any = SimpleNamespace(decoder=stated)
    signature(manifest, metadata.DECODER).check("graph", session)
    table = model.get_input_embeddings().weight.detach().numpy()
    lookup = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])],
        "embed",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "n"])],
        [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["b", "n", HIDDEN])],
        [numpy_helper.from_array(table, "table")],
    )
    opset = [helper.make_opsetid("", 20)]
    proto = helper.make_model(lookup, opset_imports=opset, ir_version=10)
    embed = ort.InferenceSession(proto.SerializeToString())
    return OnnxDecoder(Graphs(stated, embed, session, session))


def logits_after(model: Lfm2ForCausalLM, segments: list[Segment]) -> np.ndarray:
    """transformers' own logits (vocab,) after segments read at once, without any cache."""
    table = model.get_input_embeddings().weight.detach()
    embedded = [
        torch.from_numpy(segment.inputs_embeds)
        if isinstance(segment, EmbeddingSegment)
        else table[torch.from_numpy(segment.ids)]
        for segment in segments
    ]
    with torch.no_grad():
        output = model(inputs_embeds=torch.cat(embedded)[None], use_cache=False)
    return output.logits[0, -1].numpy()


def text(*ids: int) -> TokenSegment:
    """A segment of text."""
    return TokenSegment(np.array(ids, dtype=np.int64))


def picture(tokens: int, seed: int = 0, key: str | None = None) -> EmbeddingSegment:
    """A segment of a picture's features."""
    values = np.random.default_rng(seed).normal(size=(tokens, HIDDEN)).astype(np.float32)
    return EmbeddingSegment(values, key)
