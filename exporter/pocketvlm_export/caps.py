"""Knows the caps on pictures that an export may state, and sizes at which defaults change; imports
neither torch nor transformers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pocketvlm.errors import RequestError
from pocketvlm.limits import settle_numbers, whole

# Where neither the user nor the checkpoint bounds them to a device's measure.
DEFAULT_TILES = 4
# Tokens up to which scope prunes by default. Each pick compares all with all. At 576 tokens and a
# quarter of them kept that is some 5 % of an int8 tower's time, and it grows with their cube.
MOST_COMPARED = 768
CAPS = ("max_pixels", "max_tiles", "fixed_size")
DEFAULT_TOKENS = 512  # before pruning, where resolution is dynamic


@dataclass(frozen=True)
class Caps:
    """How large pictures may be, in the terms of whoever exports; None leaves it to the family.

    Tower and decoder both take less where pictures are smaller, so these come before any budget. An
    artifact's cap may be lowered again when it runs.

    Attributes:
        max_pixels: height times width of a picture at most, where resolution is dynamic; larger
            ones are made smaller.
        max_tiles: parts that a picture is cut into at most; a further tile with the whole picture
            is not counted.
        fixed_size: (height, width) that every picture is resized to, where resolution is dynamic;
            for runtimes that want graphs of one shape.
        suggested: names of those that a device suggests for any model. One that a family does not
            have is left out, and a smaller limit of the checkpoint is kept.
    """

    max_pixels: int | None = None
    max_tiles: int | None = None
    fixed_size: tuple[int, int] | None = None
    suggested: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        settle_numbers(self)
        if self.max_pixels is not None and self.fixed_size is not None:
            raise RequestError(
                f"--max-pixels {self.max_pixels} caps pictures of any size, --fixed-size gives all "
                "of them one",
                advice="give one of them",
                setting="fixed_size",
            )
        for name, value in self.given.items():
            each = value if isinstance(value, tuple) else (value,)
            if min(whole(number, name) for number in each) < 1:
                raise RequestError(
                    f"--{name.replace('_', '-')} is {value}", expected="at least 1", setting=name
                )

    @property
    def given(self) -> dict[str, Any]:
        """Those that are stated, by name."""
        return {name: value for name in CAPS if (value := getattr(self, name)) is not None}

    def known(self, names: Collection[str]) -> Self:
        """Return them without those suggested ones that are not among ``names``."""
        return self.without(self.suggested - set(names))

    def without(self, names: Collection[str]) -> Self:
        """Return them without those of ``names``."""
        kept = {name: value for name, value in self.given.items() if name not in names}
        return type(self)(**kept, suggested=self.suggested)

    def pixels_within(self, own: int) -> int | None:
        """``max_pixels``; at most the checkpoint's ``own`` where that was a suggestion."""
        if self.max_pixels is None or "max_pixels" not in self.suggested:
            return self.max_pixels
        return min(self.max_pixels, own)

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> Self:
        """Read what `given` wrote into a manifest."""
        size = stated.get("fixed_size")
        return cls(
            stated.get("max_pixels"),
            stated.get("max_tiles"),
            None if size is None else (size[0], size[1]),
        )
