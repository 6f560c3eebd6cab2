"""Knows what Hugging Face answers: its own ``generate`` about whole pictures, and the parity gate's
reference where tokens are dropped."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForImageTextToText, PaliGemmaProcessor

from compare_peers.programs.processors import processor_of
from parity.drawn import Message
from pocketvlm.artifact import Artifact
from pocketvlm.layouts import TileGrid, open_layout
from pocketvlm_export.checkpoint import load_image_processor
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.arrangement import layout_of, picture_reference
from pocketvlm_export.verification.bounds import STEPS
from pocketvlm_export.verification.decoder_reference import (
    PictureReference,
    greedy_answer,
    one_thread,
    pruned_positions,
    text_to_ids,
)
from pocketvlm_export.verification.readers import PlainReader
from pocketvlm_export.verification.vision_reference import (
    VisionReference,
    vision_reference,
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Theirs:
    """Hugging Face's answer to one question.

    Attributes:
        token_ids: greedy, until the end of sequence or `STEPS`.
        logits: before the first of them, (vocab,).
        margins: by how much each step prefers its token to the next best.
        scale: the largest absolute logit, at least 1.
        tiles: what is kept of each tile of each picture, with how near others were; none where
            nothing is dropped.
    """

    token_ids: list[int]
    logits: Floats
    margins: list[float]
    scale: float
    tiles: Sequence[Sequence[VisionReference]] = ()


def media_of(messages: Sequence[Message]) -> list[Any]:
    """The pictures, or clips, of a conversation, in order."""
    return [
        part[part["type"]]
        for message in messages
        for part in message["content"]
        if part["type"] != "text"
    ]


def _answer(
    token_ids: Sequence[int],
    logits: Floats,
    scores: Floats,
    ends: Sequence[int],
    tiles: Sequence[Sequence[VisionReference]] = (),
) -> Theirs:
    end = next((n + 1 for n, token in enumerate(token_ids) if token in ends), len(token_ids))
    two = np.sort(scores[:end], axis=1)[:, -2:]
    margins = (two[:, 1] - two[:, 0]).astype(float).tolist()
    scale = max(1.0, float(np.abs(logits[:end]).max()))
    return Theirs([int(each) for each in token_ids[:end]], logits[0], margins, scale, tiles)


class Whole:
    """The checkpoint's own class, processor and ``generate``."""

    def __init__(self, checkpoint: Checkpoint, artifact: Artifact) -> None:
        self._checkpoint, self._ends = checkpoint, artifact.manifest.decoder.eos_token_ids
        folder = checkpoint.source.folder
        self._medium = checkpoint.spec.family.medium
        with quiet_transformers():
            model, loaded = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            if lacks := sorted(loaded["missing_keys"]):  # transformers draws what it does not find
                raise ValueError(f"{folder} has no {lacks[0]} that {type(model).__name__} finds")
            self._model = model.eval()
            if self._medium == "video":
                self._processor: Any = load_image_processor(artifact.root, "video")
            elif checkpoint.family.processor == PaliGemmaProcessor.__name__:
                self._processor = PaliGemmaProcessor.from_pretrained(folder)
            else:
                self._processor = processor_of(artifact.root)
                tilings = getattr(self._processor.image_processor, "image_grid_pinpoints", None)
                if tilings is not None:  # an artifact may cut into fewer tiles than its checkpoint
                    self._model.config.image_grid_pinpoints = tilings

    def ask(self, messages: Sequence[Message]) -> Theirs:
        """The answer to a conversation's last question."""
        with quiet_transformers(), one_thread(), torch.inference_mode():
            inputs = self._read(messages)
            made = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=STEPS,
                output_logits=True,
                output_scores=True,
                return_dict_in_generate=True,
            )
        tokens = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        logits, scores = (torch.cat(each).numpy() for each in (made.logits, made.scores))
        return _answer(tokens, logits, scores, self._ends)

    def _read(self, messages: Sequence[Message]) -> Any:
        media = media_of(messages)
        if self._medium == "video":
            return self._read_clip(messages, media)
        if getattr(self._processor, "chat_template", None) is None:
            (message,) = messages
            text = "<image>" * len(media) + message["content"][-1]["text"]
            return self._processor(images=media, text=text, return_tensors="pt")
        return self._processor.apply_chat_template(
            list(messages),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )

    def _read_clip(self, messages: Sequence[Message], media: Sequence[Any]) -> dict[str, Any]:
        """As the processor does, whose class needs torchvision."""
        family, spec = self._checkpoint.family, self._checkpoint.spec
        layout = next(iter(spec.layouts.values()))
        pixels = [family.reference_pixels(self._processor, clip, layout) for clip in media]
        text = family.reference_conversation(self._checkpoint.source.folder, messages)
        slots = sum(len(frames) for frames in pixels) * spec.vision.tokens
        ids = text_to_ids(self._checkpoint, text, slots)
        return {
            "input_ids": torch.from_numpy(ids)[None],
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
            "pixel_values_videos": torch.from_numpy(np.stack(pixels)),
        }


class Pruned:
    """The parity gate's reference: transformers' modules, the tokens that an oracle keeps."""

    def __init__(
        self, checkpoint: Checkpoint, artifact: Artifact, embedding: Any, decoder: Any
    ) -> None:
        self._checkpoint, self._artifact = checkpoint, artifact
        self._embedding, self._decoder = embedding, decoder
        with quiet_transformers():
            self._processor = load_image_processor(artifact.root, checkpoint.spec.family.medium)

    def ask(self, messages: Sequence[Message]) -> Theirs:
        """The answer to a conversation's last question."""
        checkpoint = self._checkpoint
        family = checkpoint.family
        read = self._pictures(media_of(messages))
        pictures = [picture for picture, _ in read]
        text = self._text(messages)
        ids = self._ids(text, pictures, [picture.slots for picture in pictures])
        grids = [int(np.prod(picture.grid)) for picture in pictures if picture.grid is not None]
        whole = self._ids(text, pictures, grids) if len(grids) == len(pictures) else ids
        extras = {
            name: np.concatenate([picture.extras[name] for picture in pictures])
            for name in pictures[0].extras
        }
        reader = PlainReader(
            self._decoder,
            pruned_positions(checkpoint, ids, whole, pictures),
            functools.partial(family.reference_inputs, extras=extras),
        )
        features = np.concatenate([picture.features for picture in pictures])
        with one_thread(), torch.inference_mode():
            made = greedy_answer(checkpoint, self._embedding, reader, ids, features, STEPS)
        ends = self._artifact.manifest.decoder.eos_token_ids
        kept = [each for _, each in read]
        return _answer(made.token_ids, made.logits, made.scores, ends, kept)

    def _text(self, messages: Sequence[Message]) -> str:
        family, folder = self._checkpoint.family, self._checkpoint.source.folder
        if family.processor != PaliGemmaProcessor.__name__:
            return family.reference_conversation(folder, messages)
        (message,) = messages
        question = message["content"][-1]["text"]
        return family.reference_prompt(folder, question, len(message["content"]) - 1)

    def _ids(
        self,
        text: str,
        pictures: Sequence[PictureReference],
        slots: Sequence[int | Sequence[int]],
    ) -> npt.NDArray[np.int64]:
        """Of a prompt with so many ``slots`` in each picture, or in each tile of it."""
        spec, folder = self._checkpoint.spec, self._checkpoint.source.folder
        tokenizer = self._checkpoint.family.tokenizer(folder)
        token = str(tokenizer.convert_ids_to_tokens(spec.image_token_id))
        counts: list[int] = []
        for picture, each in zip(pictures, slots, strict=True):
            tiles = picture.text.count(token) or 1
            counts += [each // tiles] * tiles if isinstance(each, int) else each
        texts = [picture.text for picture in pictures]
        return text_to_ids(self._checkpoint, text, counts, texts)

    def _pictures(
        self, media: Sequence[Any]
    ) -> list[tuple[PictureReference, list[VisionReference]]]:
        """What the prompt holds of each picture or clip, and what is kept of its tiles."""
        family = self._checkpoint.family
        layout, runtime = (
            layout_of(self._checkpoint.spec, self._artifact),
            open_layout(self._artifact),
        )
        assert layout is not None
        if len(media) > 1 and layout.several is not None:
            layout, runtime = layout.several, runtime.several
            pixels = family.reference_pixels(self._processor, media, layout)
            batches = [[pixels[number : number + 1]] for number in range(len(media))]
        else:
            batches = [
                list(family.reference_batches(self._processor, _images(medium), layout))
                for medium in media
            ]
        result = []
        for medium, batch in zip(media, batches, strict=True):
            first = _images(medium)[0]
            size = (first.height, first.width)
            grid: TileGrid = runtime.cut(medium).grid
            kept = [self._kept(pixels) for pixels in batch]
            result.append((picture_reference(self._checkpoint, layout, kept, grid, size), kept))
        return result

    def _kept(self, pixels: Floats) -> VisionReference:
        pruning, vision = self._artifact.manifest.pruning, self._artifact.manifest.vision
        by_budget = vision_reference(self._checkpoint, pruning, pixels, vision.stages)
        return by_budget[pruning.default_budget]


def _images(medium: Any) -> list[Any]:
    return medium if isinstance(medium, list) else [medium]
