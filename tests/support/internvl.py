"""transformers' whole InternVL with its own processor, given only what is kept of each tile."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import InternVLForConditionalGeneration

from pocketvlm import VLM, Artifact, EngineSettings
from pocketvlm.artifact.specs import Pruning
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.decoders.llama_sequence import Reading
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.pruning.base import Pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from support.processors import processor_of

TILE, N = 56, 16  # of the tiny presets: 8 x 8 patches, two by two
SIDE, SQUARE = 4, 2
IMAGE = "<image>"


class Theirs:
    """The model of a checkpoint; pictures are cut into at most ``max_tiles`` parts."""

    def __init__(self, folder: Path, max_tiles: int = 6) -> None:
        with quiet_transformers():
            self.model = InternVLForConditionalGeneration.from_pretrained(
                folder, attn_implementation="eager"
            ).eval()
        self.processor = processor_of(folder)
        self.processor.image_processor.max_patches = max_tiles

    def prepare(self, prompt: str, images: list, budget: int = N) -> Any:
        """What the processor makes of a question, a tile taking ``budget`` slots: pictures come
        first, or where the prompt places them."""
        if IMAGE not in prompt:
            prompt = IMAGE * len(images) + prompt
        content: list[dict] = []
        for number, text in enumerate(prompt.split(IMAGE)):
            content += [{"type": "image", "image": images[number - 1]}] if number else []
            content += [{"type": "text", "text": text}] if text else []
        self.processor.image_seq_length = budget
        with quiet_transformers():
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

    @torch.inference_mode()
    def features(self, tiles: torch.Tensor) -> torch.Tensor:
        """(tiles, N, hidden)."""
        return self.model.model.get_image_features(tiles).pooler_output

    @torch.inference_mode()
    def maps(self, tile: torch.Tensor) -> list[np.ndarray]:
        """Softmaxed attention of every layer, (heads, 65, 65) each, [CLS] first."""
        output = self.model.model.vision_tower(tile[None], output_attentions=True)
        return [each[0].numpy() for each in output.attentions]

    def kept(self, method: str, tile: torch.Tensor, budget: int) -> np.ndarray:
        """Tokens with most of what these methods count in the attention maps, (budget,)."""
        maps = [each.astype(np.float64).mean(axis=0) for each in self.maps(tile)]
        of_patches = {
            "fastervlm": maps[-1][0, 1:],
            "vtc-cls": maps[1][0, 1:] + maps[2][0, 1:],  # 16 of 22 layers, of those of this tower
            "received-attention": maps[-1][1:, 1:].mean(axis=0),
        }[method]
        paid = of_patches.reshape(SIDE, SQUARE, SIDE, SQUARE).mean(axis=(1, 3)).ravel()
        return np.sort(np.argsort(-paid, kind="stable")[:budget])

    @torch.inference_mode()
    def encoded(self, tile: torch.Tensor) -> Encoded:
        """What the oracles read."""
        features = self.model.model.vision_tower(tile[None]).last_hidden_state[:, 1:]
        shuffled = self.model.model.pixel_shuffle(features.unflatten(1, (2 * SIDE, 2 * SIDE)))
        return Encoded(
            self.maps(tile),
            1,
            shuffled.flatten(1, 2)[0].double().numpy(),
            self.features(tile[None])[0].double().numpy(),
            (SIDE, SIDE),
            SQUARE,
        )

    def kept_by_oracle(self, pruning: Pruning, tile: torch.Tensor) -> np.ndarray:
        """Tokens that a method's oracle keeps at the default budget."""
        ranking = find_oracle(pruning.method)(self.encoded(tile), pruning.options)
        return ranking.kept(pruning.default_budget)

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
        """As `answer`, given the features of the kept tokens of each tile alone."""
        features = self.features(inputs["pixel_values"])
        rows = [each[torch.from_numpy(at)] for each, at in zip(features, kept, strict=True)]
        embeds = self.model.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == self.model.config.image_token_id] = torch.cat(rows)
        logits = self.model(inputs_embeds=embeds).logits[0, -1].numpy()
        ids = self.model.generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=steps)
        return ids[0].tolist(), logits


def numbered(kept: list[np.ndarray]) -> list[int]:
    """Kept tokens of the tiles of one picture, numbered on from tile to tile."""
    return [int(number) for tile, at in enumerate(kept) for number in at + N * tile]


def load_exact(folder: Path, engine: str) -> VLM:
    """An artifact answered for by its float32 decoder; llama.cpp's keeps keys and values in float32
    too, else its logits are some thousandths off."""
    if engine == "onnx":
        return VLM.load(folder, decoder=engine)
    artifact, one = Artifact.open(folder), EngineSettings(threads=1)
    decoder = artifact.manifest.decoder
    opened = LlamaCppDecoder.from_file(
        artifact.path(decoder.gguf["f32"]),
        context=decoder.context,
        hidden=decoder.hidden,
        vocab=decoder.vocab,
        positions=decoder.positions,
        reading=Reading.of(decoder),
        settings=one,
        f32_cache=True,
    )
    return VLM(artifact, VisionEncoder.open(artifact, settings=one), opened)


def vision_outputs(
    checkpoint: Checkpoint, pruner: Pruner, budget: int, pixels: np.ndarray
) -> list[np.ndarray]:
    """image_features, kept_indices and kept_scores of a checkpoint's vision graph before it is
    exported."""
    spec = checkpoint.spec
    with quiet_transformers(), torch.inference_mode():
        tower = checkpoint.family.load_tower(
            checkpoint.weights, spec, layers=spec.vision.depth, attention="eager"
        )
        projector = checkpoint.family.load_projector(checkpoint.weights, spec)
        encoder = PrunedVisionEncoder(tower, projector, spec.vision, pruner, budget)
        return [output.numpy() for output in encoder(torch.from_numpy(pixels))]
