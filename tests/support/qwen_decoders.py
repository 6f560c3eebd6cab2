"""The decoders of tiny Qwen models on both engines, made as an export makes them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from pocketvlm import EngineSettings
from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import DecoderSpec
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.decoders.llama_sequence import Reading
from pocketvlm.decoders.onnx import Graphs, OnnxDecoder
from pocketvlm.ort.signatures import signature
from pocketvlm_export.families.text_models import HeadedTextModel
from pocketvlm_export.gguf import write_gguf
from pocketvlm_export.graphs import DecoderGraph, trace
from pocketvlm_export.graphs.masks import is_full
from pocketvlm_export.onnx_passes import fuse, tidy
from pocketvlm_export.quiet import quiet_transformers
from support import tiny_tokenizers
from support.tiny_qwen import IMAGE, TinyQwen

CONTEXT = 2048


def manifest_spec(**changed: Any) -> DecoderSpec:
    """What a manifest says of the decoder."""
    fields: dict[str, Any] = {
        "engines": ("onnx",),
        "default_engine": "onnx",
        "default_precisions": {"onnx": "fp32"},
        "layers": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "hidden": 64,
        "vocab": 256,
        "context": CONTEXT,
        "image_token_id": IMAGE,
        "eos_token_ids": (2,),
        "positions": "mrope",
    }
    return DecoderSpec(**(fields | changed))


def onnx_decoder(qwen: TinyQwen) -> OnnxDecoder:
    """The decoder as an export makes it, fused."""
    head = qwen.model.lm_head.weight.detach()
    text = HeadedTextModel(qwen.model.model.language_model, head).eval()
    spec = manifest_spec(extras=qwen.spec.extras)
    with quiet_transformers():
        graph = DecoderGraph(text, qwen.spec)
        model = trace(graph)
    tidy(model, graph.output_axes)
    fuse(model, metadata.DECODER, full=is_full(qwen.spec))
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    signature(SimpleNamespace(decoder=spec), metadata.DECODER).check("graph", session)
    table = qwen.model.get_input_embeddings().weight.detach().numpy()
    lookup = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])],
        "embed",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "n"])],
        [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["b", "n", 64])],
        [numpy_helper.from_array(table, "table")],
    )
    opset = [helper.make_opsetid("", 20)]
    proto = helper.make_model(lookup, opset_imports=opset, ir_version=10)
    embed = ort.InferenceSession(proto.SerializeToString())
    return OnnxDecoder(Graphs(spec, embed, session, session))


class Weights:
    """A decoder's weights under the names that checkpoints have them."""

    def __init__(self, model: torch.nn.Module) -> None:
        prefixes = {"model.language_model.": "decoder.model.", "lm_head.": "decoder.lm_head."}
        self._tensors = {
            ours + name.removeprefix(theirs): value.detach()
            for name, value in model.state_dict().items()
            for theirs, ours in prefixes.items()
            if name.startswith(theirs)
        }
        self.names = {
            name: (None, name, tuple(value.shape)) for name, value in self._tensors.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def write_file(qwen: TinyQwen, folder: Path, file: Path) -> None:
    """Write a GGUF file in float32; ``folder`` gets a tokenizer."""
    core = tiny_tokenizers.byte_level("qwen2")
    texts = folder / "texts"
    texts.mkdir()
    tiny_tokenizers.save(core, texts)
    (texts / "config.json").write_text("{}")
    (texts / "chat_template.jinja").write_text("")
    checkpoint = SimpleNamespace(
        spec=SimpleNamespace(decoder=qwen.spec),
        weights=Weights(qwen.model),
        source=SimpleNamespace(name="tiny"),
    )
    write_gguf(checkpoint, texts, file, "f32", 2)


def open_file(file: Path, extras: tuple[str, ...] = (), **options: Any) -> LlamaCppDecoder:
    """A GGUF file, keys and values in float32."""
    sizes: dict[str, Any] = {
        "context": CONTEXT,
        "hidden": 64,
        "vocab": 256,
        "positions": "mrope",
        "reading": Reading(extras),
    } | options
    return LlamaCppDecoder.from_file(
        file, f32_cache=True, settings=EngineSettings(threads=1), **sizes
    )
