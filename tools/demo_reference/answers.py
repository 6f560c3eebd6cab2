"""Knows how to ask the Hugging Face model: its own ``generate``, and the same model on a subset of
the patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import (
    DynamicCache,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from train_demo.scenes import Question

BATCH = 50
NEW_TOKENS = 48


def fastervlm(scores: np.ndarray, budget: int) -> np.ndarray:
    """The patches [CLS] attends to most (arXiv 2412.01818), ties to the lower index."""
    return np.sort(np.argsort(-scores, kind="stable")[:budget])


def prompt_of(question: Question, processor: LlavaProcessor | PreTrainedTokenizerBase) -> str:
    """The chat prompt with one ``<image>`` in it."""
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    )


@torch.no_grad()
def generate_answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[tuple[Image.Image, Question]],
) -> list[str]:
    """Greedy answers of the whole model through ``generate``, nothing pruned."""
    texts: list[str] = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        inputs = processor(
            images=[picture for picture, _ in batch],
            text=[prompt_of(question, processor) for _, question in batch],
            return_tensors="pt",
            padding=True,
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        texts += processor.batch_decode(
            ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True
        )
    return [text.strip() for text in texts]


class PrunedModel:
    """Answers from a part of the patches; tower and [CLS] scores are computed once a picture."""

    def __init__(self, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
        model.model.vision_tower.set_attn_implementation(
            "eager"
        )  # only eager attention can be looked at
        self.model, self.processor = model, processor
        self.image_token = model.config.image_token_id

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> tuple[torch.Tensor, np.ndarray]:
        """Projected features (n, patches, hidden) and [CLS] scores (n, patches) of the layer LLaVA
        reads."""
        layer = self.model.config.vision_feature_layer
        features, scores = [], []
        for start in range(0, len(pictures), BATCH):
            pixels = self.processor.image_processor(
                list(pictures[start : start + BATCH]), return_tensors="pt"
            )
            out = self.model.model.vision_tower(
                **pixels, output_attentions=True, output_hidden_states=True
            )
            features.append(self.model.model.multi_modal_projector(out.hidden_states[layer][:, 1:]))
            scores.append(out.attentions[layer][:, :, 0, 1:].mean(1).numpy())
        return torch.cat(features), np.concatenate(scores)

    @torch.no_grad()
    def tokens(
        self, features: torch.Tensor, kept: np.ndarray, asked: Sequence[Question]
    ) -> list[list[int]]:
        """The token ids of those answers, filled up with end tokens within a batch."""
        ids: list[list[int]] = []
        for start in range(0, len(asked), BATCH):
            part = slice(start, start + BATCH)
            index = torch.from_numpy(kept[part])
            image = features[part].gather(1, index[..., None].expand(-1, -1, features.shape[-1]))
            ids += self._answer_batch(image, asked[part])
        return ids

    def _answer_batch(self, image: torch.Tensor, asked: Sequence[Question]) -> list[list[int]]:
        tokenizer, language = self.processor.tokenizer, self.model.model.language_model
        prompts = [tokenizer.encode(prompt_of(question, self.processor)) for question in asked]
        longest = max(map(len, prompts)) - 1 + image.shape[1]
        embeds = torch.zeros(len(asked), longest, image.shape[-1])
        mask = torch.zeros(len(asked), longest, dtype=torch.long)
        positions = torch.zeros(len(asked), longest, dtype=torch.long)
        for row, ids in enumerate(prompts):  # left-padded, the picture's features in its slot
            at = ids.index(self.image_token)
            table = self.model.get_input_embeddings()(torch.tensor(ids))
            filled = torch.cat([table[:at], image[row], table[at + 1 :]])
            place = torch.arange(len(filled))
            (
                embeds[row, -len(filled) :],
                mask[row, -len(filled) :],
                positions[row, -len(filled) :],
            ) = filled, 1, place
        cache = DynamicCache(config=language.config)
        position, done = positions[:, -1:], torch.zeros(len(asked), dtype=torch.bool)
        written: list[torch.Tensor] = []
        for _ in range(NEW_TOKENS):
            hidden = language(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
            ).last_hidden_state
            token = self.model.lm_head(hidden[:, -1]).argmax(-1)
            written.append(torch.where(done, tokenizer.eos_token_id, token))
            done |= token == tokenizer.eos_token_id
            if done.all():
                break
            embeds, position = self.model.get_input_embeddings()(token)[:, None], position + 1
            mask, positions = (
                torch.cat([mask, torch.ones(len(asked), 1, dtype=torch.long)], 1),
                position,
            )
        return torch.stack(written, 1).tolist()
