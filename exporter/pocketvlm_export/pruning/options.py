"""Knows how the options of a pruning method are read from text and kept within what is allowed:
numbers within limits, and choices of words."""

from dataclasses import dataclass

from pocketvlm.errors import RequestError

Number = int | float
Value = Number | str


@dataclass(frozen=True)
class Option:
    """A number with its limits, which belong to what is allowed.

    Attributes:
        kind: ``int`` or ``float``.
        low, high: limits.
        default: None for what the method makes of the tower.
    """

    kind: type[int] | type[float]
    low: Number
    high: Number
    default: Number | None = None

    def read(self, what: str, text: str) -> Number:
        """Return the number that ``text`` is; raises `PocketVLMError`, beginning with ``what``,
        where it is none."""
        number = "a whole number" if self.kind is int else "a number"
        expected = f"{number} within {self.low}..{self.high}"
        try:
            value = self.kind(text)
        except ValueError:
            raise RequestError(
                f"{what} is {text!r}", expected=expected, setting="pruner_option"
            ) from None
        if not self.low <= value <= self.high:  # nor is NaN
            raise RequestError(f"{what} is {text}", expected=expected, setting="pruner_option")
        return value


@dataclass(frozen=True)
class Choice:
    """One of several words.

    Attributes:
        words: what is allowed.
        default: None for what the method makes of the tower.
    """

    words: tuple[str, ...]
    default: str | None = None

    def read(self, what: str, text: str) -> str:
        """Return ``text``; raises `PocketVLMError`, beginning with ``what``, where it is none of
        the words."""
        if text not in self.words:
            expected = ", ".join(self.words[:-1]) + f" or {self.words[-1]}"
            raise RequestError(f"{what} is {text!r}", expected=expected, setting="pruner_option")
        return text
