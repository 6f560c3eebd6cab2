"""Knows what is asked while measuring: pictures, a prompt, how many tokens are generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.base import check_room
from pocketvlm.errors import RequestError
from pocketvlm.layouts import Layout, TileGrid, counting_layout, layout_among
from pocketvlm.limits import PictureLimits, settle_numbers, whole
from pocketvlm.media.pictures import open_picture
from pocketvlm.text.messages import check_medium
from pocketvlm.text.prompts import Prompter

TEXT_TOKENS = 40  # of the default prompt


@dataclass(frozen=True)
class Question:
    """What every run answers.

    Attributes:
        prompt: the question.
        images: paths of pictures; none means one of noise.
        picture_size: (width, height) of that, in pixels; None is the size that has the most tiles
            or tokens. Where there are ``images`` they have their own.
        new_tokens: tokens generated. The end-of-sequence token counts as any other, so that all
            runs do the same work.
    """

    prompt: str
    images: tuple[str, ...] = ()
    new_tokens: int = 16
    picture_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        settle_numbers(self)
        whole(self.new_tokens, "new_tokens", least=1)
        for side in self.picture_size or ():
            whole(side, "picture_size", least=1)

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Self:
        """Read what was written as JSON."""
        size = stated["picture_size"]
        images = tuple(stated["images"])
        return cls(**{**stated, "images": images, "picture_size": size and (size[0], size[1])})

    def open(self, artifact: Artifact) -> list[Image.Image]:
        """The pictures as RGB; raises `PocketVLMError` for one that is refused."""
        size, most = self.picture_size and self.picture_size[::-1], PictureLimits().max_pixels
        if size and not 0 < size[0] * size[1] <= most:
            raise RequestError(
                f"--picture-size {size[1]}x{size[0]}",
                expected=f"1 to {most} pixels",
                setting="picture_size",
            )
        return [
            open_picture(image) for image in self.images or [noise_picture(artifact, size=size)]
        ]

    @property
    def pictures(self) -> int:
        """How many pictures the prompt has."""
        return len(self.images) or 1


def check_question(artifact: Artifact, question: Question, budget: int) -> None:
    """Refuse at once what each run would refuse: a picture, or a prompt longer than the context at
    ``budget`` tokens per picture or tile; raises `PocketVLMError`."""
    layout, prompter = question_layout(artifact, question), Prompter.from_artifact(artifact)
    check_medium(layout.medium, pictures=True)
    slots = [layout.expand(grid, budget) for grid in picture_grids(artifact, question)]
    ids = prompter.place(prompter.encode(question.prompt, len(slots)), slots)
    check_room(len(ids), question.new_tokens - 1, artifact.manifest.decoder.context)


def question_layout(artifact: Artifact, question: Question) -> Layout[Any]:
    """What each picture of a question goes through, which may depend on their number."""
    return layout_among(counting_layout(artifact), question.pictures)


def picture_grids(artifact: Artifact, question: Question) -> list[TileGrid]:
    """The tiles that each picture of a question is cut into; raises `PocketVLMError` for one that
    is refused."""
    layout = question_layout(artifact, question)
    images = question.open(artifact)
    return [layout.grid(image.height, image.width) for image in images]


def noise_picture(
    artifact: Artifact, seed: int = 0, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """A picture of noise, another for each seed: uint8 (height, width, 3), of the ``size`` that has
    the most tiles or tokens unless (height, width) is given."""
    shape = (*(size or counting_layout(artifact).largest_size()), 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def made_up_prompt(artifact: Artifact, pictures: int = 1) -> str:
    """A prompt of at most `TEXT_TOKENS` tokens, the template's included and the pictures' not; at
    least one word."""
    prompter = Prompter.from_artifact(artifact)
    prompt = "What"
    while len(prompter.encode(f"{prompt} is", pictures, 1)) - pictures <= TEXT_TOKENS:
        prompt += " is"
    return prompt
