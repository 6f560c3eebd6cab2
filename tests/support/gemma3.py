"""transformers' whole Gemma 3 with its own processor, given only what is kept of each picture."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Gemma3ForConditionalGeneration

from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.oracles import Encoded
from support.processors import processor_of

EDGE, N = 112, 16  # of the tiny preset: 16 x 16 patches, four by four
SIDE, SQUARE = 4, 4
IMAGE = "<image>"


def parts(prompt: str, images: list) -> list[dict]:
    """A question as the parts of a message: pictures come first, or where the prompt places
    them."""
    if IMAGE not in prompt:
        prompt = IMAGE * len(images) + prompt
    content: list[dict] = []
    for number, text in enumerate(prompt.split(IMAGE)):
        content += [{"type": "image", "image": images[number - 1]}] if number else []
        content += [{"type": "text", "text": text}] if text else []
    return content


class Theirs:
    """The model of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        with quiet_transformers():
            self.model = Gemma3ForConditionalGeneration.from_pretrained(
                folder, attn_implementation="eager"
            ).eval()
        self.processor = processor_of(folder)
        self._sequence = self.processor.full_image_sequence

    def prepare(self, messages: str | list[dict], images: list, budget: int = N) -> Any:
        """What the processor makes of a question or conversation, a picture taking ``budget``
        slots."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": parts(messages, images)}]
        slot = self.processor.tokenizer.image_token
        written = self._sequence.replace(slot * N, slot * budget)
        self.processor.full_image_sequence = written
        with quiet_transformers():
            return self.processor.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

    @torch.inference_mode()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(pictures, N, hidden)."""
        return self.model.model.get_image_features(pixels).pooler_output

    @torch.inference_mode()
    def encoded(self, pixels: torch.Tensor) -> Encoded:
        """What the oracles read of a picture, (3, EDGE, EDGE)."""
        output = self.model.model.vision_tower(pixels[None], output_attentions=True)
        squares = output.last_hidden_state[0].unflatten(0, (SIDE, SQUARE, SIDE, SQUARE))
        return Encoded(
            [each[0].numpy() for each in output.attentions],
            0,
            squares.mean(dim=(1, 3)).flatten(0, 1).double().numpy(),
            self.features(pixels[None])[0].double().numpy(),
            (SIDE, SIDE),
            SQUARE,
        )

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
    ) -> tuple[list[int], list[np.ndarray]]:
        """The greedy answer and the logits before each of its tokens, given the features of the
        kept tokens of each picture alone. Nothing is cached: every token is read with all before
        it."""
        model, (ids, kinds) = self.model, (inputs["input_ids"], inputs["token_type_ids"])
        features = self.features(inputs["pixel_values"])
        rows = [each[torch.from_numpy(at)] for each, at in zip(features, kept, strict=True)]
        embeds = model.get_input_embeddings()(ids)
        embeds[ids == model.config.image_token_id] = torch.cat(rows)
        answer: list[int] = []
        logits: list[np.ndarray] = []
        while len(answer) < steps:
            scores = model(inputs_embeds=embeds, token_type_ids=kinds).logits[0, -1]
            logits.append(scores.numpy())
            answer.append(int(scores.argmax()))
            if answer[-1] in model.generation_config.eos_token_id:
                break
            token = model.get_input_embeddings()(torch.tensor([[answer[-1]]]))
            embeds = torch.cat([embeds, token], dim=1)
            kinds = torch.cat([kinds, torch.zeros_like(kinds[:, :1])], dim=1)
        return answer, logits
