"""Models with the weights that the golden vectors in ``tests/data`` were made with, and how
pictures reach them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from transformers import AttentionInterface

from pocketvlm_export.graphs import PrunedVisionEncoder, VisionEncoderGraph, trace
from pocketvlm_export.onnx_passes import DynamicInt8, NameSelection, fuse, tidy

DATA = Path(__file__).parents[1] / "data"
TEXT = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def filled(model, seed):
    """``model`` with the golden weights: drawn parameter by parameter, in order."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                normed = ("norm" in name or "ln_" in name) and name.endswith("weight")
                parameter.copy_(0.1 * noise + float(normed))
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@contextmanager
def recorded_maps(model) -> Iterator[list[np.ndarray]]:
    """Every softmaxed map of a model with eager attention, (heads, queries, keys) each, in the
    order in which they are computed within the block."""
    maps = []

    def attention(module, query, key, value, attention_mask=None, scaling=1.0, **_):
        weights = (query @ key.transpose(2, 3) * scaling).softmax(-1)
        maps.append(weights[0].detach().numpy())
        return (weights @ value).transpose(1, 2), weights

    AttentionInterface.register("recorded", attention)
    model.set_attn_implementation("recorded")
    yield maps
    model.set_attn_implementation("eager")


def run_graph(tower, projector, spec, pruner, budget, *, portable=False, int8=False):
    """Export a vision graph; returns it and a function from pixel_values to its outputs by name."""
    pruner.settle(spec)
    module = PrunedVisionEncoder(tower, projector, spec, pruner, budget, portable=portable)
    graph = VisionEncoderGraph(module)
    model = trace(graph)
    tidy(model, graph.output_axes)
    if not portable:
        fuse(model, graph.kind)
    if int8:
        DynamicInt8()(model)
    NameSelection()(model)
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return model, lambda pixels: dict(
        zip(names, session.run(names, {"pixel_values": pixels}), strict=True)
    )
