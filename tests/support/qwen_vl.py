"""Qwen's families as transformers has them: the whole model, its processor, and pruning as a mask
over the unpruned sequence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, RepetitionPenaltyLogitsProcessor

from pocketvlm_export.quiet import quiet_transformers
from support.processors import processor_of

EDGE = 28  # of a token, in pixels; Qwen3-VL's has 32


def noise(rows: int, columns: int, seed: int = 0, edge: int = EDGE) -> Image.Image:
    """A picture that is resized to so many tokens, in blocks of colour that survive it."""
    random = np.random.default_rng(1000 * seed + 100 * rows + columns)
    blocks = random.integers(0, 256, (2 * rows, 2 * columns, 3), dtype=np.uint8)
    size = (edge * columns + 5, edge * rows - 3)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def user(*parts: str | Image.Image) -> dict[str, Any]:
    """A message of texts and pictures in their order."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": part}
        for part in parts
    ]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    """An answer as a message."""
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


class Theirs:
    """transformers' model of ``checkpoint``, with the processor that ``artifact``'s files make.

    Dropped tokens stay in the sequence, where attention does not see them, and nothing is numbered
    anew: this knows nothing of gathering, gaps or where an answer continues.
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
        """Of each picture, all its tokens: (N, hidden)."""
        made = self.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        return [part.numpy() for part in made.pooler_output]

    @torch.inference_mode()
    def extras(self, inputs: Any) -> list[np.ndarray]:
        """Further features of all tokens of all pictures, (N, hidden) each; of most models none."""
        made = self.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        # Each is a list of pictures.
        layers = getattr(made, "deepstack_features", None) or []
        return [torch.cat(list(layer)).numpy() for layer in layers]

    @torch.inference_mode()
    def generate(self, inputs: Any, steps: int = 16) -> list[int]:
        """Greedy tokens about whole pictures, by transformers' own loop and by whatever else the
        checkpoint was published with."""
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
        slots, first = np.flatnonzero(~left), 0
        counts = (inputs["image_grid_thw"].prod(dim=1) // 4).tolist()
        for numbers, count in zip(kept, counts, strict=True):
            left[slots[first : first + count][list(numbers)]] = True
            first += count
        return left

    @torch.inference_mode()
    def masked(
        self, inputs: Any, kept: Sequence[Sequence[int]], steps: int = 16
    ) -> tuple[list[int], np.ndarray]:
        """Greedy tokens and the logits before the first, the dropped tokens hidden.

        Every step reads the whole sequence again, without a cache.
        """
        embed, ids = self.model.get_input_embeddings(), inputs["input_ids"]
        embeds = embed(ids)
        features = np.concatenate(self.features(inputs))
        is_image = ids == self.model.config.image_token_id
        embeds[is_image] = torch.from_numpy(features)
        further = [torch.from_numpy(rows) for rows in self.extras(inputs)]
        positions, _ = self.model.model.get_rope_index(
            ids,
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
        )
        mask = torch.from_numpy(self.left(inputs, kept).astype(np.int64))[None]
        eos = set(self.model.generation_config.eos_token_id)
        penalty = self.model.generation_config.repetition_penalty or 1.0
        penalise = RepetitionPenaltyLogitsProcessor(float(penalty))
        tokens, first = [], None
        while len(tokens) < steps and not eos & set(tokens):
            answered = torch.zeros(1, len(tokens), dtype=torch.bool)
            more = {
                "visual_pos_masks": torch.cat([is_image, answered], dim=1),
                "deepstack_visual_embeds": further,
            }
            hidden = self.model.model.language_model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                **(more if further else {}),
            ).last_hidden_state
            logits = self.model.lm_head(hidden[:, -1])
            first = logits[0].numpy().copy() if first is None else first
            so_far = torch.cat([ids, torch.tensor([tokens], dtype=ids.dtype)], dim=1)
            tokens.append(int(penalise(so_far, logits).argmax()))
            following = positions.amax() + 1
            positions = torch.cat([positions, following.expand(3, 1, 1)], dim=2)
            embeds = torch.cat([embeds, embed(torch.tensor([tokens[-1:]]))], dim=1)
            mask = torch.cat([mask, torch.ones(1, 1, dtype=mask.dtype)], dim=1)
        return tokens, first


def pixels_of(made: Any) -> np.ndarray:
    """What a picture processor of Qwen's made of one picture, as a picture again: (1, 3, H, W).

    Its rows are patches, square by square; each is channels, frames, rows, columns.
    """
    _, rows, columns = np.asarray(made["image_grid_thw"])[0].tolist()
    values = np.asarray(made["pixel_values"])
    edge = round((values.shape[1] / 6) ** 0.5)
    patches = iter(values.reshape(-1, 3, 2, edge, edge))
    pixels = np.empty((1, 3, edge * rows, edge * columns), dtype=np.float32)
    for row in range(0, rows, 2):
        for column in range(0, columns, 2):
            for y, x in (
                (row, column),
                (row, column + 1),
                (row + 1, column),
                (row + 1, column + 1),
            ):
                patch = next(patches)
                np.testing.assert_array_equal(patch[:, 0], patch[:, 1])
                place = (slice(edge * at, edge * at + edge) for at in (y, x))
                pixels[0, :, *place] = patch[:, 0]
    return pixels
