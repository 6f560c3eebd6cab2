"""LFM2-VL as transformers has it: the whole model, its processor, and pruning as a sequence that
never had the dropped tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from pocketvlm_export.quiet import quiet_transformers
from support.processors import processor_of

EDGE = 28  # of a token of the tiny model, in pixels


def noise(rows: int, columns: int, seed: int = 0) -> Image.Image:
    """A picture that is resized to so many tokens, in blocks of colour that survive it."""
    random = np.random.default_rng(1000 * seed + 100 * rows + columns)
    blocks = random.integers(0, 256, (2 * rows, 2 * columns, 3), dtype=np.uint8)
    size = (EDGE * columns + 3, EDGE * rows - 2)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


class Theirs:
    """transformers' model of ``checkpoint``, with the processor that ``artifact``'s files make.

    A convolution reads its neighbours, so tokens that are hidden by a mask are not the same as
    tokens that are not there: a pruned prompt is the class's own language model over the embeddings
    that are left.
    """

    def __init__(self, checkpoint: Path, artifact: Path) -> None:
        with quiet_transformers():
            self.model = AutoModelForImageTextToText.from_pretrained(
                checkpoint, attn_implementation="eager"
            ).eval()
        self.processor = processor_of(artifact)

    def read(self, *messages: dict[str, Any]) -> Any:
        """What the processor makes of a conversation."""
        with quiet_transformers():
            return self.processor.apply_chat_template(
                list(messages),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

    @torch.inference_mode()
    def features(self, inputs: Any) -> list[np.ndarray]:
        """Of each picture, all its tokens, tile after tile: (N, hidden)."""
        made = self.model.model.get_image_features(
            inputs["pixel_values"], inputs["spatial_shapes"], inputs["pixel_attention_mask"]
        )
        rows = np.concatenate([part.numpy() for part in made.pooler_output])
        counts = [len(slots) for slots in self.slots(inputs)]
        assert sum(counts) == len(rows)
        return np.split(rows, np.cumsum(counts)[:-1])

    def slots(self, inputs: Any) -> list[np.ndarray]:
        """Where in the prompt each picture's tokens are: between the marks around it."""
        ids = inputs["input_ids"][0].numpy()
        image, first, last = (
            np.flatnonzero(ids == self.processor.tokenizer.convert_tokens_to_ids(mark))
            for mark in ("<image>", "<|image_start|>", "<|image_end|>")
        )
        pairs = zip(first, last, strict=True)
        return [image[(image > start) & (image < end)] for start, end in pairs]

    @torch.inference_mode()
    def generate(self, inputs: Any, steps: int = 16) -> list[int]:
        """Greedy tokens about whole pictures, by transformers' own loop."""
        with quiet_transformers():
            made = self.model.generate(**inputs, do_sample=False, max_new_tokens=steps)
        return made[0, inputs["input_ids"].shape[1] :].tolist()

    @torch.inference_mode()
    def logits(self, inputs: Any) -> np.ndarray:
        """Behind a prompt about whole pictures, (vocab,)."""
        return self.model(**inputs).logits[0, -1].numpy()

    def left(self, inputs: Any, kept: Sequence[Sequence[int]]) -> np.ndarray:
        """Which tokens of the prompt are left where of each picture those numbers are, (n,)."""
        ids = inputs["input_ids"][0].numpy()
        left = ids != self.model.config.image_token_id
        for numbers, slots in zip(kept, self.slots(inputs), strict=True):
            left[slots[list(numbers)]] = True
        return left

    @torch.inference_mode()
    def dropped(
        self, inputs: Any, kept: Sequence[Sequence[int]], steps: int = 16
    ) -> tuple[list[int], np.ndarray]:
        """Greedy tokens and the logits before the first, without the other tokens of the pictures.

        Every step reads the whole sequence again, without a cache.
        """
        embed, ids = self.model.get_input_embeddings(), inputs["input_ids"]
        embeds = embed(ids)
        if kept:
            features = np.concatenate(self.features(inputs))
            embeds[ids == self.model.config.image_token_id] = torch.from_numpy(features)
        embeds = embeds[:, torch.from_numpy(self.left(inputs, kept)) if kept else slice(None)]
        tokens, first = [], None
        while len(tokens) < steps and self.model.generation_config.eos_token_id not in tokens:
            logits = self.model(inputs_embeds=embeds, use_cache=False).logits[:, -1]
            first = logits[0].numpy().copy() if first is None else first
            tokens.append(int(logits.argmax()))
            embeds = torch.cat([embeds, embed(torch.tensor([tokens[-1:]]))], dim=1)
        return tokens, first
