"""Knows the errors that people see, as fields and as one line: what was found, what was expected,
what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pocketvlm_targets.text import one_line

_LONGEST_LINE = 300


class PocketVLMError(Exception):
    """A refusal meant for a person, or for a program that reads its fields instead of its text.

    As text it is one line, ``found: expected ...; advice``. The command line prints it without a
    traceback (unless ``--debug``) and exits with ``exit_code``.

    >>> from pocketvlm import VLM, PocketVLMError
    >>> try:
    ...     VLM.load("demo-vlm").generate("What is it?", budget=99)
    ... except PocketVLMError as error:
    ...     print(error.found, "|", error.advice, "|", error.setting)
    budget 99 is not served by the loaded graph (1..36) | load with that budget | budget

    Attributes:
        found: what is wrong.
        expected: what would be right, as words that follow "expected"; empty if ``found`` says it.
        advice: what to do next, as an imperative; empty if nothing can be done.
        setting: the refused setting, by the name of its option ("budget", "decoder_precision");
            empty if it was another input.
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
    """A checkpoint that cannot be exported: incomplete, damaged, of an unsupported kind.

    >>> from pocketvlm_export import export
    >>> export("examples", "of-no-checkpoint")
    Traceback (most recent call last):
    pocketvlm.errors.CheckpointError: ...examples has no config.json: give the folder of ...
    """


class ArtifactError(PocketVLMError):
    """An artifact that cannot be used: incomplete, altered, mixed up, of another version.

    >>> from pocketvlm import VLM
    >>> VLM.load("examples")
    Traceback (most recent call last):
    pocketvlm.errors.ArtifactError: examples has no pocketvlm.json: give a folder written by ...
    """


class PictureError(PocketVLMError):
    """A picture or clip that cannot be read, or that is beyond a limit.

    >>> from pocketvlm import VLM
    >>> VLM.load("demo-vlm").generate("What is it?", images=["examples/questions.jsonl"])
    Traceback (most recent call last):
    pocketvlm.errors.PictureError: examples/questions.jsonl is not a picture this can read: ...
    """


class RequestError(PocketVLMError):
    """A question, setting or option that this artifact or this version cannot serve.

    >>> from pocketvlm import VLM
    >>> VLM.load("demo-vlm", decoder="llama.cpp")
    Traceback (most recent call last):
    pocketvlm.errors.RequestError: decoder engine 'llama.cpp' is not in this artifact, ...
    """


class EngineError(PocketVLMError):
    """An engine that is missing, or that failed while it computed.

    >>> from pocketvlm.errors import EngineError, PocketVLMError
    >>> issubclass(EngineError, PocketVLMError), EngineError.exit_code
    (True, 1)
    """


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
    """Return the first line of another library's error, shortened, or the name of its class if it
    has no message.

    Such messages quote whole files or carry a stack trace, and ours are one line.
    """
    message = str(error).strip()
    return message.splitlines()[0][:_LONGEST_LINE] if message else type(error).__name__


@contextmanager
def library_errors(
    refusal: Callable[[str], Exception], out_of_memory: Exception | None = None
) -> Iterator[None]:
    """Turn every exception of a library that reads untrusted input into a refusal.

    Libraries written in Rust raise their panics as a class beside `Exception`, so that ``except
    Exception`` does not catch them. What a person or the interpreter asks for (Ctrl-C, an exit, a
    generator that is closed) is raised unchanged.

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
