"""Knows seeded scenes, one to three things pasted on a photograph, and the questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from train_demo.scenes import NUMBERS, PLACES, Question
from train_reference.things import CIFAR_NOUNS, EMOJI_NOUNS, NOUNS, SPLITS, Catalogue, Thing

IMAGE_SIZE = 224
CELL = IMAGE_SIZE / 3
MAX_THINGS = 3
KINDS = ("name", "place", "count", "presence", "colour")
# Edges in pixels. CIFAR's 32 are enlarged at least twice: a patch of the tower is 14 pixels, and
# over the whole picture every patch would say the same, so that pruning could lose nothing.
_PHOTO_EDGE, _EMOJI_EDGE = (66, 84), (58, 78)


@dataclass(frozen=True)
class Pasted:
    """A thing in a scene: ``number`` among those of its noun; its cell, 0 to 8, row by row; its
    left, top and edge in pixels."""

    noun: str
    number: int
    colour: str | None
    cell: int
    left: int
    top: int
    edge: int

    @property
    def place(self) -> str:
        """The cell in words."""
        return PLACES[self.cell]


@dataclass(frozen=True)
class Scene:
    """Things in reading order; nouns never repeat. ``photograph`` by number, the square of it that
    is used by left, top and edge as parts of what there is to choose from, mirrored or not."""

    things: tuple[Pasted, ...]
    photograph: int
    window: tuple[float, float, float]
    mirrored: bool


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The stream of scene ``index``: every scene can be made alone, in any order."""
    return np.random.default_rng([21, SPLITS.index(split), index])


def make_scene(catalogue: Catalogue, rng: np.random.Generator) -> Scene:
    """Draw one; a thing is a picture of CIFAR's or an emoji, as likely as the other."""
    count = int(rng.integers(1, MAX_THINGS + 1))
    nouns: list[str] = []
    while len(nouns) < count:
        group = CIFAR_NOUNS if rng.random() < 0.5 else tuple(EMOJI_NOUNS)
        noun = str(rng.choice([one for one in group if catalogue.things.get(one)]))
        if noun not in nouns:
            nouns.append(noun)
    cells = np.sort(rng.choice(9, size=count, replace=False))
    things = tuple(
        _place(catalogue, noun, int(cell), rng) for noun, cell in zip(nouns, cells, strict=True)
    )
    photograph = int(rng.integers(len(catalogue.photographs)))
    window = (float(rng.random()), float(rng.random()), float(rng.uniform(0.5, 1)))
    return Scene(things, photograph, window, bool(rng.random() < 0.5))


def _place(catalogue: Catalogue, noun: str, cell: int, rng: np.random.Generator) -> Pasted:
    number = int(rng.integers(len(catalogue.things[noun])))
    edge = int(rng.integers(*(_PHOTO_EDGE if noun in CIFAR_NOUNS else _EMOJI_EDGE)))
    slack = max(0.0, (CELL - edge) / 2) + 3  # may reach a little into the neighbouring cell
    left, top = (
        int(
            np.clip((at + 0.5) * CELL + rng.uniform(-slack, slack) - edge / 2, 0, IMAGE_SIZE - edge)
        )
        for at in (cell % 3, cell // 3)
    )
    return Pasted(noun, number, catalogue.things[noun][number].colour, cell, left, top, edge)


def render(scene: Scene, catalogue: Catalogue) -> Image.Image:
    """The scene as a 224 x 224 RGB picture."""
    photograph = catalogue.photographs[scene.photograph]
    edge = min(photograph.size) * scene.window[2]
    left, top = (
        part * (size - edge) for part, size in zip(scene.window, photograph.size, strict=False)
    )
    picture = photograph.resize(
        (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge)
    )
    if scene.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for pasted in scene.things:
        thing: Thing = catalogue.things[pasted.noun][pasted.number]
        drawn = Image.fromarray(thing.picture).resize((pasted.edge,) * 2, Image.Resampling.BICUBIC)
        mask = drawn if drawn.mode == "RGBA" else None
        picture.paste(drawn, (pasted.left, pasted.top), mask)
    return picture


def questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """Name and place of every thing, how many, two of presence, and colours where they are clear;
    in random wording."""
    for thing in scene.things:
        at = "in the middle" if thing.place == "middle" else f"at the {thing.place}"
        text = _pick(rng, f"What is pasted {at}?", f"Which thing is {at}?")
        yield Question("name", text, thing.noun)
        text = _pick(rng, f"Where is the {thing.noun}?", f"Where do you see the {thing.noun}?")
        yield Question("place", text, thing.place)
        if thing.colour:
            hue = _pick(rng, "colour", "color")
            yield Question("colour", f"What {hue} is the {thing.noun}?", thing.colour)
    text = _pick(rng, "How many things are pasted on the photo?", "How many things are pasted in?")
    yield Question("count", text, NUMBERS[len(scene.things)])
    present = [thing.noun for thing in scene.things]
    absent = [noun for noun in NOUNS if noun not in present]
    for nouns, answer in ((present, "yes"), (absent, "no")):
        noun = _pick(rng, *nouns)
        article = "an" if noun[0] in "aeiou" else "a"
        yield Question("presence", f"Is there {article} {noun}?", answer)


def question_set(
    catalogue: Catalogue, split: str, count: int, per_picture: int = 5
) -> Iterator[tuple[Image.Image, Question]]:
    """``count`` pairs of picture and question, ``per_picture`` of them about each scene; of a scene
    as many kinds as can be, the kinds in turn."""
    for number in range(-(-count // per_picture)):
        rng = scene_rng(split, number)
        scene = make_scene(catalogue, rng)
        picture = render(scene, catalogue)
        every = list(questions(scene, rng))
        by_kind = {kind: [one for one in every if one.kind == kind] for kind in KINDS}
        asked: list[Question] = []
        turn = number
        while len(asked) < min(per_picture, count - number * per_picture) and any(by_kind.values()):
            kind = KINDS[turn % len(KINDS)]
            turn += 1
            if by_kind[kind]:
                asked.append(by_kind[kind].pop(int(rng.integers(len(by_kind[kind])))))
        yield from ((picture, question) for question in asked)


def _pick(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]
