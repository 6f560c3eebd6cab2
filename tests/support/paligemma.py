"""transformers' PaliGemma: with the weights of the golden vectors, and its decoder as an export
makes it; and whole, with its processor."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor

from pocketvlm.artifact import metadata
from pocketvlm.artifact.specs import PROMPT, DecoderSpec
from pocketvlm.decoders.onnx import Graphs, OnnxDecoder
from pocketvlm.ort.signatures import signature
from pocketvlm_export.families.spec import DecoderSpec as Dimensions
from pocketvlm_export.families.text_models import TEXT_MODELS, ScaledEmbedding
from pocketvlm_export.graphs import DecoderGraph, EmbedTokensGraph, trace
from pocketvlm_export.onnx_passes import TieHead, fuse, tidy
from pocketvlm_export.quiet import quiet_transformers
from support.golden import DATA, TEXT, filled

IMAGE = 250
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 56, "patch_size": 7, "vision_use_head": False,
}  # fmt: skip
OWN = {"gemma": {}, "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 4096}}


class Golden(NamedTuple):
    """A prompt of text and kept tokens of a picture, and what transformers' class answers."""

    ids: np.ndarray
    inputs_embeds: np.ndarray
    logits_prefill: np.ndarray
    logits_causal: np.ndarray
    logits_last: np.ndarray
    greedy: list[int]

    @classmethod
    def of(cls, name: str) -> "Golden":
        data = np.load(DATA / f"{name}_decoder.npz")
        arrays = [data[key] for key in ("logits_prefill", "logits_causal", "logits_last")]
        return cls(data["input_ids"][0], data["inputs_embeds"][0], *arrays, data["greedy"].tolist())


def paligemma(name: str, **text: Any) -> PaliGemmaForConditionalGeneration:
    """The class with a decoder of this type, with the golden weights."""
    layers = {"model_type": name, "num_hidden_layers": 3, "head_dim": 16}
    config = PaliGemmaConfig(
        vision_config={**VISION, "model_type": "siglip_vision_model"},
        text_config={**TEXT, **layers, **OWN[name], **text},
        projection_dim=64,
        image_token_index=IMAGE,
    )
    torch.manual_seed(7)
    model = filled(PaliGemmaForConditionalGeneration(config), 7)
    model.set_attn_implementation("eager")
    return model


def decoder_of(model: PaliGemmaForConditionalGeneration) -> nn.Module:
    """Its decoder alone, as the exporter loads it: without the input embedding."""
    text = model.config.text_config
    with quiet_transformers():
        decoder = TEXT_MODELS[text.model_type].cls(text).eval()
    decoder.model.load_state_dict(model.model.language_model.state_dict())
    decoder.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    decoder.set_input_embeddings(nn.Identity())
    decoder.set_attn_implementation("eager")
    return decoder


def graphs_of(model: PaliGemmaForConditionalGeneration) -> tuple[ir.Model, ir.Model]:
    """Its decoder and embedding as traced and tidy graphs."""
    text = model.config.text_config
    spec = Dimensions(
        text, 3, 4, 2, 16, 64, 256, 2048, tied=True, first_position=1, attention=PROMPT
    )
    table = nn.Embedding.from_pretrained(model.get_input_embeddings().weight.detach())
    made = []
    for graph in (
        DecoderGraph(decoder_of(model), spec),
        EmbedTokensGraph(ScaledEmbedding(table, 64**0.5)),
    ):
        with quiet_transformers():
            traced = trace(graph)
        tidy(traced, graph.output_axes)
        made.append(traced)
    return made[0], made[1]


def opened(decoder: ir.Model, embed: ir.Model) -> OnnxDecoder:
    """Both graphs as the runtime's decoder."""
    spec = DecoderSpec(
        engines=("onnx",),
        default_engine="onnx",
        default_precisions={"onnx": "fp32"},
        layers=3,
        kv_heads=2,
        head_dim=16,
        hidden=64,
        vocab=256,
        context=2048,
        image_token_id=IMAGE,
        eos_token_ids=(2,),
        first_position=1,
        attention=PROMPT,
    )
    prefill, table = (
        ort.InferenceSession(ir.to_proto(graph).SerializeToString()) for graph in (decoder, embed)
    )
    signature(SimpleNamespace(decoder=spec), metadata.DECODER).check("graph", prefill)
    return OnnxDecoder(Graphs(spec, table, prefill, prefill))


def fused(decoder: ir.Model) -> ir.Model:
    """A copy with ONNX Runtime's own operators, and the head as the table is stored."""
    copy = decoder.clone()
    fuse(copy, metadata.DECODER, causal=False)
    TieHead()(copy)
    return copy


class Theirs:
    """transformers' whole class of a checkpoint, and its own processor."""

    def __init__(self, folder: Path) -> None:
        with quiet_transformers():
            self.model = PaliGemmaForConditionalGeneration.from_pretrained(
                folder, attn_implementation="eager"
            ).eval()
            self.processor = PaliGemmaProcessor.from_pretrained(folder)

    def prepare(self, prompt: str, images: list, budget: int) -> dict[str, torch.Tensor]:
        """What the processor makes of a prompt, a picture taking ``budget`` slots: pictures come
        first, or where the prompt places them."""
        self.processor.image_seq_length = budget
        with quiet_transformers():
            inputs = self.processor(text=[prompt], images=[images], return_tensors="pt")
        return {name: value for name, value in inputs.items() if name != "labels"}

    @torch.inference_mode()
    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(pictures, N, hidden)."""
        return self.model.get_image_features(pixel_values).pooler_output

    @torch.inference_mode()
    def answer(self, inputs: Any, steps: int = 16) -> tuple[list[int], np.ndarray]:
        """Token ids of the greedy answer, and the logits before the first, of the class as it
        is."""
        logits = self.model(**inputs).logits[0, -1].numpy()
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=steps)[0]
        return ids[inputs["input_ids"].shape[1] :].tolist(), logits

    @torch.inference_mode()
    def answer_kept(
        self, inputs: Any, kept: list[np.ndarray], steps: int = 16
    ) -> tuple[list[int], np.ndarray]:
        """As `answer`, given the features of the kept tokens of each picture alone: they and the
        text see each other, and positions count on from 1."""
        features = self.features(inputs["pixel_values"])
        rows = [each[torch.from_numpy(at)] for each, at in zip(features, kept, strict=True)]
        table = self.model.get_input_embeddings()
        embeds = table(inputs["input_ids"])
        embeds[inputs["input_ids"] == self.model.config.image_token_id] = torch.cat(rows)
        output = self.model(
            inputs_embeds=embeds, token_type_ids=inputs["token_type_ids"], use_cache=True
        )
        first, ids = output.logits[0, -1].numpy(), []
        while len(ids) < steps:
            ids.append(int(output.logits[0, -1].argmax()))
            if ids[-1] == self.model.generation_config.eos_token_id:
                break
            output = self.model(
                inputs_embeds=table(torch.tensor([ids[-1:]])),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
        return ids, first
