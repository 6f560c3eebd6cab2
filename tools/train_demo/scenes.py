"""Knows the demo's world: seeded scenes of coloured shapes and letters, their pictures, captions
and questions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGE_SIZE = 96
CELL = IMAGE_SIZE // 3
_SCALE = 2  # drawn this much larger, then averaged down: soft edges without a drawing library

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "green": (36, 178, 58),
    "blue": (46, 78, 232),
    "yellow": (242, 216, 40),
    "purple": (164, 58, 204),
    "white": (246, 246, 246),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
LETTERS = "ACEHKMTZ"
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "middle",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
NUMBERS = ("zero", "one", "two", "three")
MAX_OBJECTS = 3
KINDS = ("colour", "shape", "place", "count", "presence", "reading", "description")

# What a cell can hold, in words.
CONTENTS = (
    "nothing",
    *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
    *(f"{colour} letter {letter}" for colour in COLOURS for letter in LETTERS),
)

# Each split draws from its own stream of seeds, so that no test picture can be a training picture.
SPLITS = {"train": 1, "validation": 2, "test": 3, "example": 4}


@dataclass(frozen=True)
class Thing:
    """One object: a shape or a letter, of one colour, in one of nine cells (0-8, row by row)."""

    kind: str  # one of SHAPES, or "letter"
    colour: str
    cell: int
    centre: tuple[float, float]  # pixels
    radius: float  # pixels
    angle: float  # radians
    letter: str = ""

    @property
    def place(self) -> str:
        """The cell in words."""
        return PLACES[self.cell]

    @property
    def name(self) -> str:
        """How a sentence calls it, such as ``red circle`` or ``white letter K``."""
        return f"{self.colour} {self.kind}" + (f" {self.letter}" if self.letter else "")


@dataclass(frozen=True)
class Question:
    """A question about a scene with its one right answer; ``kind`` is one of KINDS."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Scene:
    """Objects in reading order (row by row), with a seed for all that is only decoration."""

    things: tuple[Thing, ...]
    background_seed: int


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The random stream of the scene ``index`` of ``split``: every scene can be made alone, in any
    order."""
    return np.random.default_rng([SPLITS[split], index])


def make_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """Draw a scene of ``count`` objects (1-3, at random when None); colours and kinds never repeat
    in a scene."""
    count = count or int(rng.integers(1, MAX_OBJECTS + 1))
    cells = np.sort(rng.choice(9, size=count, replace=False))
    colours = rng.choice(list(COLOURS), size=count, replace=False)
    kinds = list(rng.choice(SHAPES, size=count, replace=False))
    if rng.random() < 0.45:  # a letter now and then
        kinds[int(rng.integers(count))] = "letter"
    things = []
    for cell, colour, kind in zip(cells, colours, kinds, strict=True):
        radius = rng.uniform(11, 15)
        slack = CELL / 2 + 2 - radius  # may reach two pixels into the neighbouring cell
        centre = tuple(
            float((c + 0.5) * CELL + rng.uniform(-slack, slack)) for c in (cell % 3, cell // 3)
        )
        centre = tuple(float(np.clip(c, radius, IMAGE_SIZE - radius)) for c in centre)
        letter = str(rng.choice(list(LETTERS))) if kind == "letter" else ""
        angle = float(rng.uniform(-0.25, 0.25))
        things.append(
            Thing(
                str(kind),
                str(colour),
                int(cell),
                (centre[0], centre[1]),
                float(radius),
                angle,
                letter,
            )
        )
    return Scene(tuple(things), int(rng.integers(2**31)))


def render(scene: Scene) -> Image.Image:
    """The scene as a 96 x 96 RGB picture: textured, cluttered background, objects over it."""
    rng = np.random.default_rng(scene.background_seed)
    picture = _background(rng).resize((IMAGE_SIZE * _SCALE,) * 2, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    _clutter(draw, rng)
    for thing in scene.things:
        shade = rng.uniform(0.88, 1.04)
        colour = tuple(int(np.clip(c * shade, 0, 255)) for c in COLOURS[thing.colour])
        _draw_thing(draw, thing, (colour[0], colour[1], colour[2]))
    picture = picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    noisy = np.asarray(picture, dtype=np.float32) + rng.normal(
        0, rng.uniform(0, 8), (IMAGE_SIZE, IMAGE_SIZE, 1)
    )
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def caption(scene: Scene) -> str:
    """One sentence that names every object with its colour and place, in reading order."""
    parts = [
        f"a {t.name} {'in' if t.place == 'middle' else 'at'} the {t.place}" for t in scene.things
    ]
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return text[0].upper() + text[1:] + "."


def questions(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    """One question of every kind, in random wording."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    hue = "colour" if rng.random() < 0.5 else "color"
    yield Question("colour", f"What {hue} is the {thing.kind}?", thing.colour)

    thing = scene.things[int(rng.integers(len(scene.things)))]
    yield Question("shape", f"{_pick(rng, 'What', 'Which')} shape is {thing.colour}?", thing.kind)

    thing = scene.things[int(rng.integers(len(scene.things)))]
    subject = _pick(rng, f"{thing.colour} {thing.kind}", thing.kind)
    yield Question("place", f"Where is the {subject}?", thing.place)

    subject = _pick(rng, "objects are there", "things are in the picture")
    yield Question("count", f"How many {subject}?", NUMBERS[len(scene.things)])

    yield _presence(scene, rng)

    letters = [t.letter for t in scene.things if t.letter]
    text = _pick(rng, "Which letter is shown?", "What letter do you see?")
    yield Question("reading", text, letters[0] if letters else "none")

    yield Question(
        "description", _pick(rng, "Describe the picture.", "Describe this image."), caption(scene)
    )


def question_set(
    split: str, count: int, per_picture: int = 1
) -> Iterator[tuple[Image.Image, Question]]:
    """``count`` pairs of picture and question, the kinds in turn, ``per_picture`` (1-7) of them
    about each scene."""
    for number in range(-(-count // per_picture)):
        rng = scene_rng(split, number)
        scene = make_scene(rng)
        picture, asked = render(scene), list(questions(scene, rng))
        for i in range(number * per_picture, min(count, (number + 1) * per_picture)):
            yield picture, asked[i % len(KINDS)]


def _presence(scene: Scene, rng: np.random.Generator) -> Question:
    present = {(t.colour, t.kind) for t in scene.things}
    if rng.random() < 0.5:
        colour, kind = sorted(present)[int(rng.integers(len(present)))]
        return Question("presence", f"Is there a {colour} {kind}?", "yes")
    # Half of the absent ones borrow a colour or a shape that is there, so that neither alone gives
    # the answer away.
    thing = scene.things[int(rng.integers(len(scene.things)))]
    while True:
        colour, kind = str(rng.choice(list(COLOURS))), str(rng.choice((*SHAPES, "letter")))
        if rng.random() < 0.5:
            colour, kind = (thing.colour, kind) if rng.random() < 0.5 else (colour, thing.kind)
        if (colour, kind) not in present:
            return Question("presence", f"Is there a {colour} {kind}?", "no")


def _pick(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def _background(rng: np.random.Generator) -> Image.Image:
    """A muted, dim texture: gradient with noise, stripes, checks or soft blobs."""
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32) / IMAGE_SIZE
    base = rng.uniform(70, 140) + rng.uniform(-14, 14, 3)
    ramp = (np.cos(a := rng.uniform(0, 2 * math.pi)) * x + np.sin(a) * y)[..., None] * rng.uniform(
        0, 40
    )
    texture = rng.integers(4)
    if texture == 0:
        pattern = rng.normal(0, 10, (IMAGE_SIZE, IMAGE_SIZE))
    elif texture == 1:
        turn, frequency = rng.uniform(0, math.pi), rng.uniform(20, 60)
        pattern = 12 * np.sin(frequency * (np.cos(turn) * x + np.sin(turn) * y))
    elif texture == 2:
        size = int(rng.integers(6, 16))
        pattern = 12.0 * (((np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] // size).sum(0) % 2) * 2 - 1)
    else:
        coarse = Image.fromarray(rng.normal(0, 22, (8, 8)).astype(np.float32))
        pattern = np.asarray(coarse.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(base + ramp + pattern[..., None], 0, 255).astype(np.uint8))


def _clutter(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Thin muted lines and specks that mean nothing."""
    extent = IMAGE_SIZE * _SCALE
    for _ in range(int(rng.integers(0, 7))):
        shade = tuple(
            int(v) for v in np.clip(rng.uniform(50, 170) + rng.uniform(-12, 12, 3), 0, 255)
        )
        x, y = rng.uniform(0, extent, 2)
        if rng.random() < 0.5:
            dx, dy = rng.uniform(-50, 50, 2)
            draw.line((x, y, x + dx, y + dy), fill=shade, width=int(rng.integers(1, 4)))
        else:
            r = rng.uniform(1, 4)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=shade)


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, colour: tuple[int, int, int]) -> None:
    x, y, r = thing.centre[0] * _SCALE, thing.centre[1] * _SCALE, thing.radius * _SCALE
    if thing.kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif thing.kind == "letter":
        font = ImageFont.load_default(size=2.1 * r)
        draw.text(
            (x, y),
            thing.letter,
            fill=colour,
            font=font,
            anchor="mm",
            stroke_width=2,
            stroke_fill=colour,
        )
    else:
        draw.polygon(
            [(x + r * px, y + r * py) for px, py in _outline(thing.kind, thing.angle)], fill=colour
        )


def _outline(kind: str, angle: float) -> list[tuple[float, float]]:
    """The polygon of a shape in the unit circle, turned by ``angle``."""
    up = -math.pi / 2
    if kind == "square":
        points = [
            (math.cos(t), math.sin(t))
            for t in (up + math.pi / 4 + i * math.pi / 2 for i in range(4))
        ]
    elif kind == "triangle":
        points = [
            (math.cos(up + i * 2 * math.pi / 3), math.sin(up + i * 2 * math.pi / 3))
            for i in range(3)
        ]
    elif kind == "star":
        radii = (1.0, 0.42)
        points = [
            (radii[i % 2] * math.cos(t), radii[i % 2] * math.sin(t))
            for i, t in enumerate(up + i * math.pi / 5 for i in range(10))
        ]
    else:  # cross
        w = 0.3
        points = [
            (-w, -1),
            (w, -1),
            (w, -w),
            (1, -w),
            (1, w),
            (w, w),
            (w, 1),
            (-w, 1),
            (-w, w),
            (-1, w),
            (-1, -w),
            (-w, -w),
        ]
    cos, sin = math.cos(angle), math.sin(angle)
    return [(px * cos - py * sin, px * sin + py * cos) for px, py in points]
