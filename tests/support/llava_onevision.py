"""transformers' whole LLaVA-OneVision with its own processor, of which dropped tokens are hidden by
the attention mask."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from pocketvlm_export.quiet import quiet_transformers
from support.processors import processor_of

N = 25  # tokens of a tile of the tiny preset


class Theirs:
    """The model of a checkpoint, with those of its grids that have at most ``max_tiles`` tiles."""

    def __init__(self, folder: Path, max_tiles: int = 36) -> None:
        with quiet_transformers():
            self.model = LlavaOnevisionForConditionalGeneration.from_pretrained(
                folder, attn_implementation="eager"
            ).eval()
        self.processor, config = processor_of(folder), self.model.config
        edge = config.vision_config.image_size
        most = max_tiles * edge**2
        left = [size for size in config.image_grid_pinpoints if size[0] * size[1] <= most]
        self.processor.image_processor.image_grid_pinpoints = left
        config.image_grid_pinpoints = left

    def prepare(self, turns: Sequence[Any]) -> Any:
        """What the processor makes of a conversation: (question, pictures) and answers in turns."""
        messages = []
        for turn in turns:
            if isinstance(turn, str):
                parts = [{"type": "text", "text": turn}]
                messages.append({"role": "assistant", "content": parts})
                continue
            question, images = turn
            pictures = [{"type": "image", "image": image} for image in images]
            content = [*pictures, {"type": "text", "text": question}]
            messages.append({"role": "user", "content": content})
        with quiet_transformers():
            return self.processor.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

    def placed(self, prompt: str, images: list) -> Any:
        """As `prepare`, of a question whose text has the picture token in it."""
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": prompt}]}],
            add_generation_prompt=True,
        )
        return self.processor(images=[images], text=[text], return_tensors="pt")

    @torch.inference_mode()
    def packed(self, inputs: Any) -> list[torch.Tensor]:
        """What the class packs of each picture, (slots, hidden)."""
        named = ("pixel_values", "image_sizes", "batch_num_images")
        given = {name: inputs[name] for name in named}
        return list(self.model.model.get_image_features(**given).pooler_output)

    def tiles(self, inputs: Any) -> list[torch.Tensor]:
        """The tiles of each picture, (tiles, 3, height, width), without those that fill a batch."""
        several = len(inputs["pixel_values"]) > 1
        return [pixels[: 1 if several else len(pixels)] for pixels in inputs["pixel_values"]]

    @torch.inference_mode()
    def kept(self, tile: torch.Tensor, budget: int) -> list[int]:
        """Patches that the last layer attends to most, by whole maps."""
        output = self.model.model.vision_tower(tile[None], output_attentions=True)
        scores = output.attentions[-1][0].double().mean(dim=(0, 1)).numpy()
        return np.sort(np.argsort(-scores, kind="stable")[:budget]).tolist()

    def order(self, tiles: int, size: Sequence[int]) -> list[int]:
        """Numbers of a picture's tokens as the class packs them, -1 for newlines; for pictures that
        it does not shrink."""
        numbers = torch.arange(tiles * N, dtype=torch.float32).reshape(tiles, N, 1)
        (packed,), _ = LlavaOnevisionModel.pack_image_features(
            SimpleNamespace(config=self.model.config),
            [numbers],
            [tuple(size)],
            torch.tensor([-1.0]),
        )
        return packed[:, 0].int().tolist()

    @torch.inference_mode()
    def answer(self, inputs: Any, steps: int = 16) -> tuple[list[int], np.ndarray]:
        """Token ids of the greedy answer, and the logits before the first, of the class as it
        is."""
        logits = self.model(**inputs).logits[0, -1].numpy()
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=steps)[0]
        return ids[inputs["input_ids"].shape[1] :].tolist(), logits

    @torch.inference_mode()
    def answer_kept(
        self, inputs: Any, kept: Sequence[Sequence[int]], steps: int = 16
    ) -> tuple[list[int], np.ndarray]:
        """As `answer`, where of each picture only the tokens with these numbers are seen, and its
        newlines: the whole sequence is read, with the others masked."""
        ids = inputs["input_ids"]
        mask = torch.ones_like(ids)
        seen = []
        tiles = self.tiles(inputs)
        for pixels, size, numbers in zip(tiles, inputs["image_sizes"], kept, strict=True):
            seen += [number in (-1, *numbers) for number in self.order(len(pixels), size.tolist())]
        mask[ids == self.model.config.image_token_id] = torch.tensor(seen, dtype=torch.long)
        given = {**inputs, "attention_mask": mask}
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self.model(**given, position_ids=positions).logits[0, -1].numpy()
        embeds = self.model.get_input_embeddings()(ids)
        embeds[ids == self.model.config.image_token_id] = torch.cat(self.packed(inputs))
        answer = self.model.generate(
            inputs_embeds=embeds, attention_mask=mask, do_sample=False, max_new_tokens=steps
        )
        return answer[0].tolist(), logits
