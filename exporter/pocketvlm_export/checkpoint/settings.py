"""Knows how one setting is read out of a checkpoint's configuration: of one type, within bounds,
null as if it were not there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from transformers import PretrainedConfig

from pocketvlm.errors import CheckpointError

# Above any count, size or id of a model; products of a few such numbers are still sound floats.
LARGEST = 2**31 - 1
# Each layer is dozens of objects, built before any weight is looked at; the largest published
# models have some 130.
_MOST_LAYERS = 512
_OF_LAYERS = ("num_hidden_layers", "depth")
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Settings:
    """The settings of a JSON object, or of a configuration that transformers made of one.

    What is null is absent, as for transformers. Every method raises `CheckpointError` for a value
    of another type or beyond the bounds, and for an absent one without a default. The message names
    the file, the key, the value and what was expected.

    Attributes:
        values: the object.
        file: its name, for people.
        path: the keys that lead to it within the file, each with a dot behind it.
    """

    values: Mapping[str, Any] | PretrainedConfig
    file: str
    path: str = ""

    @classmethod
    def of(cls, config: Any, path: str = "") -> Self:
        """The settings of a model's configuration, or of a part of it that ``path`` leads to."""
        return cls(config, "config.json", path)

    def stated(self, key: str) -> Any:
        """The value of a key as it is, None where it is absent."""
        if isinstance(self.values, Mapping):
            return self.values.get(key)
        return getattr(self.values, key, None)

    def section(self, key: str) -> Self:
        """The object behind a key, an empty one where it is absent."""
        value = self.stated(key)
        if value is not None and not isinstance(value, (Mapping, PretrainedConfig)):
            raise self.refusal(key, "an object")
        return type(self)({} if value is None else value, self.file, f"{self.path}{key}.")

    def integer(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = LARGEST
    ) -> int:
        """A whole number from ``least`` to ``most``, of layers to 512."""
        value = self._or(key, default)
        most = _MOST_LAYERS if key in _OF_LAYERS else most
        if type(value) is not int or not least <= value <= most:
            raise self.refusal(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._or(key, default)
        if not _is_number(value):
            raise self.refusal(key, "a number")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._or(key, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._or(key, default)
        if not isinstance(value, str):
            raise self.refusal(key, "a text")
        return value

    def integers(
        self, key: str, default: list[int] | None = None, *, least: int = 0, most: int = LARGEST
    ) -> list[int]:
        """A list of whole numbers from ``least`` to ``most``."""
        value = self._or(key, default)
        if not isinstance(value, (list, tuple)) or not all(
            type(each) is int and least <= each <= most for each in value
        ):
            raise self.refusal(key, f"a list of whole numbers from {least} to {most}")
        return list(value)

    def channels(self, key: str) -> list[float]:
        """A finite number for each of the three channels, or one for all of them."""
        value = self._or(key, None)
        values = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        if len(values) != 3 or not all(map(_is_number, values)):
            raise self.refusal(key, "a number for each of 3 channels")
        return [float(each) for each in values]

    def refusal(self, key: str, expected: str, advice: str = "") -> CheckpointError:
        """The error of a key whose value is not what was expected."""
        value = self.stated(key)
        is_absent = value is None
        name = f"{self.path}{key}"
        return CheckpointError(
            f"{self.file} has no {name}" if is_absent else f"{self.file} has {name} {brief(value)}",
            expected=expected,
            advice=advice or f"correct {self.file}",
        )

    def _or(self, key: str, default: Any) -> Any:
        value = self.stated(key)
        return default if value is None else value


def brief(value: Any) -> str:
    """A value for a message, cut where it runs on."""
    written = repr(value)
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}..."


def _is_number(value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    # Whole numbers of JSON have no bound; one that no float holds is not a number of a model's.
    return abs(value) <= LARGEST if type(value) is int else math.isfinite(value)
