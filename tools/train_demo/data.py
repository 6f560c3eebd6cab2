"""Knows how scenes become training arrays: pictures once on disk, questions packed behind one
picture."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from train_demo.scenes import (
    IMAGE_SIZE,
    KINDS,
    Question,
    Scene,
    caption,
    make_scene,
    questions,
    render,
    scene_rng,
)

PACKED_LENGTH = 304  # picture, prompt, one question of every kind and one more of each in TWICE
TWICE = (
    "colour",
    "shape",
    "place",
    "presence",
)  # kinds that bind one property to another: the hard ones
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@dataclass
class Scenes:
    """``pictures`` uint8 (n, 96, 96, 3) and the scenes they show."""

    pictures: np.ndarray
    scenes: list[Scene]

    def pixel_values(self, indices: np.ndarray) -> torch.Tensor:
        """Normalised pictures, float32 (batch, 3, 96, 96); what CLIP's processor makes of a 96 px
        picture."""
        pixels = torch.from_numpy(self.pictures[indices]).permute(0, 3, 1, 2).float() / 255
        return (pixels - _MEAN) / _STD

    def with_at_most(self, count: int) -> np.ndarray:
        """Indices of the scenes of at most ``count`` objects."""
        return np.array([i for i, scene in enumerate(self.scenes) if len(scene.things) <= count])


def load_scenes(split: str, count: int, folder: Path) -> Scenes:
    """The first ``count`` scenes of a split; pictures are drawn once and kept in ``folder``."""
    scenes = [make_scene(scene_rng(split, i)) for i in range(count)]
    path = folder / f"{split}-{count}.npy"
    if not path.exists():
        pictures = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        with ProcessPoolExecutor() as pool:
            drawn = pool.map(_draw, scenes, chunksize=256)
            for i, picture in enumerate(
                tqdm(drawn, total=count, desc=f"drawing {split}", disable=None)
            ):
                pictures[i] = picture
        partial = path.with_suffix(".partial.npy")
        np.save(partial, pictures)
        partial.rename(path)
    return Scenes(np.load(path, mmap_mode="r"), scenes)


def corpus(count: int) -> list[str]:
    """Texts for the tokenizer: every wording of the training split's questions and answers."""
    texts = []
    for i in range(count):
        rng = scene_rng("train", i)
        scene = make_scene(rng)
        texts += [
            f"USER: <image>\n{q.text} ASSISTANT: {q.answer}</s>" for q in questions(scene, rng)
        ]
    return texts


def caption_ids(scenes: list[Scene], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Captions as int64 (batch, 48), padded behind the end token."""
    ids = torch.full((len(scenes), 48), tokenizer.pad_token_id)
    for row, scene in zip(ids, scenes, strict=True):
        tokens = [*tokenizer(caption(scene)).input_ids, tokenizer.eos_token_id]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


@dataclass
class Packed:
    """A batch of pictures, each with one question of every kind that do not see one another's text.

    ``input_ids`` and ``labels`` int64 (batch, length), labels -100 outside answers and already
    shifted. ``mask`` bool (batch, 1, length, length); ``position_ids`` int64 (batch, length),
    restarting after the picture; ``kinds`` int64 (batch, length): which kind of question a label
    belongs to, -1 elsewhere; ``whole`` bool (batch): which pictures have all their patches;
    ``segments`` int64 (batch, length): 0 for the picture's part, then the questions from 1 on, -1
    for padding and -2 for what is left out.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    position_ids: torch.Tensor
    kinds: torch.Tensor
    whole: torch.Tensor
    segments: torch.Tensor


@dataclass(frozen=True)
class Form:
    """How a question about a picture is written: ``prefix`` with one ``<image>``, the question,
    ``tail``, then ``lead``, the answer and the end token."""

    prefix: str
    tail: str
    lead: str = ""


VICUNA = Form("USER: <image>\n", " ASSISTANT:", " ")


class Packer:
    """Packs the questions about a picture behind one copy of its tokens: the picture is the costly
    part.

    ``length`` is that of every batch; None lets each be as long as it must.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        image_tokens: int,
        *,
        form: Form = VICUNA,
        kinds: Sequence[str] = KINDS,
        length: int | None = PACKED_LENGTH,
    ) -> None:
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        image = tokenizer.convert_tokens_to_ids("<image>")
        prefix = tokenizer.encode(form.prefix)
        at = prefix.index(image)
        self.prefix = prefix[:at] + [image] * image_tokens + prefix[at + 1 :]
        self.image_positions = slice(at, at + image_tokens)
        self.kinds = tuple(kinds)
        self._length = length
        self._pad = tokenizer.pad_token_id
        self._end = tokenizer.eos_token_id
        self._prompt = functools.lru_cache(maxsize=None)(lambda text: encode(text + form.tail))
        self._answer = functools.lru_cache(maxsize=200_000)(
            lambda text: [*encode(form.lead + text), self._end]
        )

    def pack(
        self,
        scenes: list[Scene],
        rng: np.random.Generator,
        *,
        leave_out: float = 0.0,
        more: bool = False,
    ) -> Packed:
        """One question of every kind about each scene, freshly worded; with ``more``, a second one
        of some.

        ``leave_out`` of the pictures lack a random part of their patches, scattered or in clumps:
        the decoder must read places off the features, since positions then say little. Left out
        means masked, with the positions of all that follows closing the gap.
        """
        present = self._present(len(scenes), rng, leave_out)  # (batch, prefix)
        asked = []
        for scene in scenes:
            asked.append(list(questions(scene, rng)))
            if more:
                asked[-1] += [one for one in questions(scene, rng) if one.kind in TWICE]
        return self.arrange(asked, present)

    def arrange(
        self, asked: Sequence[Sequence[Question]], present: np.ndarray | None = None
    ) -> Packed:
        """A batch of pictures with these questions about each; ``present`` says which tokens of the
        prefix each has, bool (batch, prefix), all by default."""
        if present is None:
            present = np.ones((len(asked), len(self.prefix)), dtype=bool)
        encoded = [
            [(self._prompt(one.text), self._answer(one.answer), one.kind) for one in some]
            for some in asked
        ]
        length = len(self.prefix)
        longest = max(sum(len(p) + len(a) for p, a, _ in some) for some in encoded)
        shape = (len(asked), self._length or length + longest)
        ids, labels = np.full(shape, self._pad), np.full(shape, -100)
        positions, segments, kinds = (
            np.zeros(shape, dtype=np.int64),
            np.full(shape, -1),
            np.full(shape, -1),
        )
        for row, some in enumerate(encoded):
            ids[row, :length], segments[row, :length] = self.prefix, np.where(present[row], 0, -2)
            positions[row, :length] = np.cumsum(present[row]) - 1
            start, at = int(present[row].sum()), length
            for segment, (prompt, answer, kind) in enumerate(some, start=1):
                end = at + len(prompt) + len(answer)
                ids[row, at:end] = prompt + answer
                positions[row, at:end] = np.arange(start, start + end - at)
                segments[row, at:end] = segment
                answers = slice(
                    at + len(prompt) - 1, end - 1
                )  # each position predicts the next token
                labels[row, answers] = answer
                kinds[row, answers] = self.kinds.index(kind)
                at = end
        group = torch.from_numpy(segments)
        visible = (group[:, None, :] == 0) | (
            group[:, None, :] == group[:, :, None]
        )  # 0: prefix, -2: left out
        mask = visible & torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        arrays = (torch.from_numpy(a) for a in (ids, labels, positions, kinds, present.all(1)))
        input_ids, label_ids, position_ids, kind_ids, whole = arrays
        return Packed(input_ids, label_ids, mask[:, None], position_ids, kind_ids, whole, group)

    def _present(self, batch: int, rng: np.random.Generator, leave_out: float) -> np.ndarray:
        """Which prefix tokens each picture has, bool (batch, prefix)."""
        present = np.ones((batch, len(self.prefix)), dtype=bool)
        for row in present[:, self.image_positions] if leave_out else ():
            if rng.random() < leave_out:
                row[:] = _some_patches(len(row), rng)
        return present


def _some_patches(patches: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of a square picture, bool (patches,): a twentieth of it or more, scattered or
    in clumps."""
    side = math.isqrt(patches)
    clumps = rng.normal(size=(side // 2, side // 2)).repeat(2, 0).repeat(2, 1).ravel()
    order = np.argsort(rng.normal(size=patches) + rng.uniform(0, 2) * clumps)
    left = round(
        math.exp(rng.uniform(math.log(patches / 20), math.log(patches)))
    )  # any budget as likely as its double
    some = np.zeros(patches, dtype=bool)
    some[order[:left]] = True
    return some


def _draw(scene: Scene) -> np.ndarray:
    return np.asarray(render(scene))
