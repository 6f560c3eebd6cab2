"""Knows how questions are drawn: pictures of any size and content, texts of many scripts, one or
several pictures, system turns and second turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pocketvlm.errors import RequestError
from pocketvlm.layouts import Medium
from train_demo.scenes import question_set

Message = dict[str, Any]

_WORDS = (
    *("what", "is", "in", "the", "picture?", "where", "red", "circle", "how", "many", "shapes"),
    *("are", "there", "describe", "it", "briefly", "and", "name", "each", "colour", "letter"),
)
# First and last code point of stretches that tokenizers, normalizers and templates treat otherwise.
_SCRIPTS = (
    (0x21, 0x7E), (0xC0, 0x17F), (0x300, 0x36F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA),
    (0x621, 0x64A), (0x905, 0x939), (0xE01, 0xE2E), (0x2010, 0x2040), (0x3041, 0x3096),
    (0x4E00, 0x4FFF), (0xAC00, 0xACFF), (0xFF01, 0xFF5E), (0x1F600, 0x1F64F),
)  # fmt: skip
_FRAMES = 8


@dataclass(frozen=True)
class Form:
    """What the questions of a family may be.

    Attributes:
        medium: what they are about.
        system: they may have a system turn.
        turns: they may have a turn before the last.
        pictures: in one question, at most.
        scenes: they are the demo's own, held-out scenes and questions, as its training was.
        edges: least and largest height and width of a picture in pixels.
    """

    medium: Medium = "image"
    system: bool = True
    turns: bool = True
    pictures: int = 2
    scenes: bool = False
    edges: tuple[int, int] = (12, 220)


def draw(seed: int, count: int, form: Form, fits: Callable[[list[Message]], bool]) -> list[Any]:
    """Return ``count`` conversations as messages, the same at every call; what does not ``fit``
    into a model's context is drawn again, smaller."""
    scenes = question_set("test", count) if form.scenes else None
    drawn = []
    for number in range(count):
        own = next(scenes) if scenes else None
        drawn.append(next(each for each in _tries(seed, number, form, own) if fits(each)))
    return drawn


def refused(check: Callable[[list[Message]], object]) -> Callable[[list[Message]], bool]:
    """What `draw` asks: whether a model takes messages."""

    def fits(messages: list[Message]) -> bool:
        try:
            check(messages)
        except RequestError:
            return False
        return True

    return fits


def _tries(seed: int, number: int, form: Form, scene: Any) -> Iterator[list[Message]]:
    """Conversations of one number, first as drawn, then ever plainer ones."""
    for again in range(100):
        random = np.random.default_rng([seed, number, again])
        yield _conversation(random, form, scene, least=again >= 50)
    raise RequestError(f"no question of number {number} fits into the context")


def _conversation(
    random: np.random.Generator, form: Form, scene: Any, *, least: bool
) -> list[Message]:
    chance = 0.0 if least else 0.25
    pictures = 1 + int(random.random() < chance and form.pictures > 1)
    text = scene[1].text if scene else _text(random, 12 if least else 40)
    media = [scene[0] if scene else _medium(random, form)]
    media += [_medium(random, form) for _ in range(pictures - 1)]
    messages: list[Message] = []
    if form.system and random.random() < chance:
        messages.append(_message("system", [_part(_text(random, 20))]))
    parts = [{"type": form.medium, form.medium: medium} for medium in media]
    if form.turns and random.random() < chance:
        answer = _message("assistant", [_part(_text(random, 20))])
        later = parts[1:] if random.random() < 0.5 else []
        parts = [part for part in parts if not any(part is each for each in later)]
        messages += [_message("user", [*parts, _part(_text(random, 20))]), answer]
        return [*messages, _message("user", [*later, _part(text)])]
    return [*messages, _message("user", [*parts, _part(text)])]


def _message(role: str, content: list[dict[str, Any]]) -> Message:
    return {"role": role, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _text(random: np.random.Generator, most: int) -> str:
    """Words, or code points of one or two scripts, with spaces and line breaks between."""
    if random.random() < 0.4:
        chosen = random.choice(_WORDS, size=int(random.integers(1, max(2, most // 5))))
        return " ".join(map(str, chosen))
    pieces = []
    for _ in range(int(random.integers(1, 4))):
        first, last = _SCRIPTS[int(random.integers(len(_SCRIPTS)))]
        length = int(random.integers(1, max(2, most // 4)))
        pieces.append("".join(map(chr, random.integers(first, last + 1, size=length))))
    text = str(random.choice([" ", "  ", "\n", ""])).join(pieces)
    # Of the model's own tokens and places there is none in what is drawn.
    return text.translate({ord("<"): "(", ord(">"): ")"})


def _medium(random: np.random.Generator, form: Form) -> Any:
    first = _picture(random, form.edges)
    if form.medium == "image":
        return first
    frames = [_picture(random, form.edges).resize(first.size) for _ in range(_FRAMES - 1)]
    return [first, *frames]


def _picture(random: np.random.Generator, edges: tuple[int, int]) -> Image.Image:
    """A picture of any size: noise in blocks, waves, a photograph's slow change, or shapes."""
    low, high = np.log(edges)
    width, height = np.exp(random.uniform(low, high, size=2)).astype(int)
    kind = int(random.integers(4))
    if kind == 0:
        size = (int(random.integers(2, 30)), int(random.integers(2, 30)), 3)
        blocks = Image.fromarray(random.integers(0, 256, size, dtype=np.uint8))
        return blocks.resize((width, height), Image.Resampling.NEAREST)
    if kind == 1:
        y, x = np.mgrid[0:height, 0:width] / 30
        planes = [np.sin(a * x + b * y + c) for a, b, c in random.normal(size=(3, 3)) * 3]
        return Image.fromarray(((np.stack(planes, -1) + 1) * 127).astype(np.uint8))
    if kind == 2:
        slow = random.normal(size=(9, 12, 3)).cumsum(axis=0).cumsum(axis=1)
        slow = ((slow - slow.min()) / np.ptp(slow) * 255).astype(np.uint8)
        return Image.fromarray(slow).resize((width, height), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (width, height), tuple(map(int, random.integers(0, 256, 3))))
    canvas = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(1, 6))):
        x0, y0 = random.random(2) * (width, height)
        edge = random.uniform(4, max(width, height))
        shape = canvas.ellipse if random.random() < 0.5 else canvas.rectangle
        shape((x0, y0, x0 + edge, y0 + edge), fill=tuple(map(int, random.integers(0, 256, 3))))
    return picture
