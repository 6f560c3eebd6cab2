"""Knows the errors that people see: what was found, what was expected, what to do next, as fields
and as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pocketvlm_targets.text import one_line

_LONGEST_LINE = 300


class PocketVLMError(Exception):
    """A refusal meant for a person, or for a program that reads its fields instead of its text.

    As text it is one line, ``found: expected ...; advice``. The command line prints it without a
    traceback (unless ``--debug``) and exits with ``exit_code``.

    Attributes:
        found: what was found.
        expected: what was expected instead, as words that follow "expected"; empty where ``found``
            says it.
        advice: what to do next, as an imperative; empty where nothing can be done.
        setting: the setting that was refused, by the name of its option ("budget",
            "decoder_precision"); empty where it was none.
    """

    exit_code: int = 1

    def __init__(
        self, found: str, expected: str = "", advice: str = "", *, setting: str = ""
    ) -> None:
        super().__init__(found, expected, advice)
        self.found = found
        self.expected = expected
        self.advice = advice
        self.setting = setting  # travels in __dict__ when the error is pickled

    def __str__(self) -> str:
        """The one line."""
        rest = [f"expected {self.expected}"] if self.expected else []
        rest += [self.advice] if self.advice else []
        return one_line(f"{self.found}: {'; '.join(rest)}" if rest else self.found)

    def to_dict(self) -> dict[str, str]:
        """The error for a program: ``class`` (its name) and the fields; see `error_from_dict`."""
        fields = {name: getattr(self, name) for name in ("found", "expected", "advice", "setting")}
        return {"class": type(self).__name__, **fields}

    @property
    def reason(self) -> str:
        """The line without its advice, for those who have better advice to give."""
        return one_line(f"{self.found}: expected {self.expected}" if self.expected else self.found)


class CheckpointError(PocketVLMError):
    """A checkpoint that cannot be exported: incomplete, damaged, of an unsupported kind."""


class ArtifactError(PocketVLMError):
    """An artifact that cannot be used: incomplete, altered, mixed up, of another version."""


class PictureError(PocketVLMError):
    """A picture or clip that cannot be read, or that is beyond a limit."""


class RequestError(PocketVLMError):
    """A question, setting or option that this artifact or this version cannot serve."""


class EngineError(PocketVLMError):
    """An engine that is missing, or that failed while it computed."""


_CLASSES = {
    kind.__name__: kind
    for kind in (CheckpointError, ArtifactError, PictureError, RequestError, EngineError)
}


def error_from_dict(data: Mapping[str, str]) -> PocketVLMError:
    """The error of `PocketVLMError.to_dict`, as another process wrote it.

    A class that is not of this module comes back as a plain `PocketVLMError`.
    """
    fields = {name: value for name, value in data.items() if name != "class"}
    return _CLASSES.get(data["class"], PocketVLMError)(**fields)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, cut where it runs on; the name of its class
    where it has no message.

    Such messages quote whole files or carry a stack trace, and ours are one line.
    """
    message = str(error).strip()
    return message.splitlines()[0][:_LONGEST_LINE] if message else type(error).__name__


@contextmanager
def library_errors(
    refusal: Callable[[str], Exception], out_of_memory: Exception | None = None
) -> Iterator[None]:
    """Let nothing but refusals out of a library that reads what strangers wrote.

    Libraries written in Rust raise their panics as a class beside `Exception`, so that
    ``except Exception`` does not see them. What a person or the interpreter asks for (Ctrl-C, an
    exit, a generator that is closed) passes.

    Args:
        refusal: makes the error out of one line, the library's own; of what the system refused
            without the path, which the error names itself.
        out_of_memory: the error where memory is wanting; None where ``refusal`` makes that too.
    """
    try:
        yield
    except (PocketVLMError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if out_of_memory is not None and isinstance(error, MemoryError):
            raise out_of_memory from error
        raise refusal(getattr(error, "strerror", None) or first_line(error)) from error
