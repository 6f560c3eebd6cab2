"""Knows what is asked while measuring: pictures or clips, a prompt, how many tokens are
generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.base import check_room
from pocketvlm.errors import RequestError
from pocketvlm.layouts import (
    Layout,
    Medium,
    TileGrid,
    budget_beside,
    counting_layout,
    counting_layouts,
    layout_among,
)
from pocketvlm.limits import PictureLimits, settle_numbers, whole
from pocketvlm.text.messages import check_media
from pocketvlm.text.prompts import Counts, Prompter
from pocketvlm.vision.viewer import open_medium

TEXT_TOKENS = 40  # of the default prompt


@dataclass(frozen=True)
class Shown:
    """A picture or clip of a question, decoded: one RGB image, or the frames that the model
    takes."""

    medium: Medium
    frames: Sequence[Image.Image]

    @property
    def content(self) -> Any:
        """What a layout cuts."""
        return self.frames[0] if self.medium == "image" else self.frames

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels; of a clip those of its first frame."""
        return self.frames[0].height, self.frames[0].width


@dataclass(frozen=True)
class Question:
    """What every run answers.

    Attributes:
        prompt: the question.
        images: paths of pictures; none, and no clips, means one picture or clip of noise.
        picture_size: (width, height) of that, in pixels; None is the size that has the most tiles
            or tokens. Where there are ``images`` or ``videos`` they have their own.
        new_tokens: tokens generated. The end-of-sequence token counts as any other, so that all
            runs do the same work.
        videos: paths of clips, which come after the pictures.
    """

    prompt: str
    images: tuple[str, ...] = ()
    new_tokens: int = 16
    picture_size: tuple[int, int] | None = None
    videos: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle_numbers(self)
        whole(self.new_tokens, "new_tokens", least=1)
        for side in self.picture_size or ():
            whole(side, "picture_size", least=1)

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Self:
        """Read what was written as JSON."""
        size = stated["picture_size"]
        paths = {name: tuple(stated[name]) for name in ("images", "videos")}
        return cls(**{**stated, **paths, "picture_size": size and (size[0], size[1])})

    def open(self, artifact: Artifact) -> list[Shown]:
        """The pictures and clips, or the noise in their place. Raises `PocketVLMError` for one that
        is refused, or of a kind that the artifact does not read."""
        size, most = self.picture_size and self.picture_size[::-1], PictureLimits().max_pixels
        if size and not 0 < size[0] * size[1] <= most:
            raise RequestError(
                f"--picture-size {size[1]}x{size[0]}",
                expected=f"1 to {most} pixels",
                setting="picture_size",
            )
        layouts = counting_layouts(artifact)
        check_media(layouts, pictures=bool(self.images), clips=bool(self.videos))
        if not self.media:
            medium, layout = next(iter(layouts.items()))
            noise = noise_picture(artifact, size=size)
            frames = layout.grids()[0].tiles if medium == "video" else 1
            return [Shown(medium, [Image.fromarray(noise)] * frames)]
        given: list[tuple[Medium, str]] = [("image", path) for path in self.images]
        given += [("video", path) for path in self.videos]
        opened = [(medium, open_medium(layouts[medium], path)) for medium, path in given]
        return [
            Shown(medium, [content] if medium == "image" else content) for medium, content in opened
        ]

    @property
    def media(self) -> tuple[str, ...]:
        """Paths of all pictures, then of all clips."""
        return self.images + self.videos

    @property
    def shown(self) -> int:
        """How many pictures and clips the prompt has."""
        return len(self.media) or 1


def check_question(artifact: Artifact, question: Question, budget: int) -> None:
    """Refuse at once what each run would refuse: a picture or clip, or a prompt longer than the
    context at ``budget`` tokens per picture, tile or frame; raises `PocketVLMError`."""
    layouts = question_layouts(artifact, question)
    prompter = Prompter.from_artifact(artifact)
    media = grids_of(artifact, question)
    kinds = [medium for medium, _ in media]
    own = next(iter(layouts.values())).config.patches
    slots = [
        layouts[medium].expand(grid, budget_beside(budget, own, layouts[medium].config.patches))
        for medium, grid in media
    ]
    ids = prompter.encode(question.prompt, Counter(kinds))
    ids = prompter.place(ids, [slots[number] for number in prompter.in_order(ids, kinds)])
    check_room(len(ids), question.new_tokens - 1, artifact.manifest.decoder.context)


def question_layouts(artifact: Artifact, question: Question) -> dict[Medium, Layout[Any]]:
    """What each picture or clip of a question goes through, which may depend on their number."""
    numbers = {"image": len(question.images), "video": len(question.videos)}
    return {
        medium: layout_among(layout, numbers[medium] or 1)
        for medium, layout in counting_layouts(artifact).items()
    }


def grids_of(artifact: Artifact, question: Question) -> list[tuple[Medium, TileGrid]]:
    """The tiles that each picture of a question is cut into, and the frames of each clip; raises
    `PocketVLMError` for one that is refused."""
    layouts = question_layouts(artifact, question)
    return [
        (shown.medium, layouts[shown.medium].grid(*shown.size)) for shown in question.open(artifact)
    ]


def noise_picture(
    artifact: Artifact, seed: int = 0, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """A picture of noise, or a frame, another for each seed: uint8 (height, width, 3), of the
    ``size`` that has the most tiles or tokens unless (height, width) is given."""
    shape = (*(size or counting_layout(artifact).largest_size()), 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def made_up_prompt(artifact: Artifact, pictures: Counts = 1) -> str:
    """A prompt of at most `TEXT_TOKENS` tokens, the template's included and those of the pictures,
    or clips, not; at least one word."""
    prompter = Prompter.from_artifact(artifact)
    prompt = "What"
    count = pictures if isinstance(pictures, int) else sum(pictures.values())
    while len(prompter.encode(f"{prompt} is", pictures, 1)) - count <= TEXT_TOKENS:
        prompt += " is"
    return prompt
