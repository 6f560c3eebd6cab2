"""Knows the standard streams as a process may be given them: closed, full, cut off, or with a byte
order mark before their text."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from pocketvlm.cli.terminal import echo
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm_targets.text import without_mark

_MARK = "\ufeff"
_NOBODY = os.strerror(errno.EPIPE)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Run a command whatever the process was given as its standard streams.

    What a command writes to files is written in any case. Standard input that is closed is empty.
    Standard error that is closed or full loses what is written there. So does standard output, and
    the exit code is then 1. Where nobody reads it any more (``| head -1``) the command ends at
    once, with 1 too.

    Raises:
        SystemExit: the command's own, with 1 in place of 0 where output was lost.
    """
    _fill_descriptors()
    before = sys.stdin, sys.stdout, sys.stderr
    # Streams of others, such as a test's or a notebook's, are theirs to look after.
    output = _watched(sys.stdout, ends=True) if sys.stdout is sys.__stdout__ else None
    error = _watched(sys.stderr, ends=False) if sys.stderr is sys.__stderr__ else None
    sys.stdin = sys.stdin or _Closed()
    sys.stdout, sys.stderr = output or sys.stdout, error or sys.stderr
    try:
        yield
    except SystemExit as ending:
        if failure := _failure(output):
            if failure != _NOBODY:  # whoever asked for the first lines expects that
                echo(f"error: standard output cannot be written ({failure})", err=True)
            ending.code = ending.code or PocketVLMError.exit_code
        raise
    finally:
        _failure(output)
        _failure(error)
        sys.stdin, sys.stdout, sys.stderr = before


def input_text() -> str:
    """All of standard input; raises `RequestError` where it is closed or no text."""
    if isinstance(sys.stdin, _Closed):
        raise RequestError("standard input is closed", advice="give the text as an option")
    with _as_text():
        return sys.stdin.read().removeprefix(_MARK)


def input_lines() -> Iterator[str]:
    """The lines of standard input as they come, stripped; raises `RequestError` where it is
    not text.

    Files that were put together have a mark before more lines than the first.
    """
    with _as_text():
        for line in sys.stdin:
            yield line.strip().removeprefix(_MARK).lstrip()


@contextmanager
def _as_text() -> Iterator[None]:
    """Read standard input strictly, and as UTF-8 where its mark says so."""
    try:
        if isinstance(sys.stdin, io.TextIOWrapper):
            start = _start(sys.stdin.buffer)
            without_mark(start)
            utf8 = start.startswith(codecs.BOM_UTF8)
            encoding = "utf-8" if utf8 else sys.stdin.encoding
            sys.stdin.reconfigure(encoding=encoding, errors="strict")
        yield
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not valid {error.encoding} ({error.reason})", advice="give text"
        ) from error
    except ValueError as error:
        raise RequestError(f"standard input cannot be read ({error})") from error


def _start(stream: Any) -> bytes:
    """The first bytes, left to be read; none of a stream that cannot look ahead."""
    return bytes(stream.peek(4)[:4]) if hasattr(stream, "peek") else b""


def _fill_descriptors() -> None:
    """Open the null device as each of 0 to 2 that is closed.

    The next file that is opened would get its number, and what libraries write to standard error
    would land in it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                os.dup2(opened, descriptor)
                if opened != descriptor:
                    os.close(opened)
                os.set_inheritable(descriptor, True)


def _watched(stream: TextIO | None, *, ends: bool) -> _Watched | None:
    """What to write to in place of a stream; None where that is the stream itself, a terminal."""
    if stream is None:
        return _Watched(_Losing(None, ends=ends), encoding="utf-8", errors="replace")
    if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return None
    stream.flush()
    raw = getattr(stream.buffer, "raw", stream.buffer)  # `python -u` has no buffer
    return _Watched(
        _Losing(raw, ends=ends),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _failure(stream: _Watched | None) -> str:
    """Why what was written to the stream got lost; empty where nothing did."""
    if stream is None:
        return ""
    with suppress(OSError):
        stream.flush()
    return stream.losing.failure


class _Closed(io.StringIO):
    """Standard input where the process has none: nothing to read, and no terminal."""


class _Losing(io.RawIOBase):
    """Passes bytes on until that fails; the rest is lost.

    Attributes:
        failure: why, empty while nothing is lost.
    """

    def __init__(self, below: io.RawIOBase | None, *, ends: bool) -> None:
        """``below`` gets the bytes, None for nobody; ``ends`` raises BrokenPipeError where their
        reader has gone."""
        self._below = below
        self._ends = ends
        self.failure = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return super().fileno() if self._below is None else self._below.fileno()

    def write(self, data: Any) -> int | None:
        size = memoryview(data).nbytes
        if self.failure or not size:
            return size
        try:
            if self._below is None:
                self.failure = "it is closed"
                return size
            return self._below.write(data)
        except OSError as error:
            self.failure = error.strerror or str(error)
            if self._ends and isinstance(error, BrokenPipeError):
                raise
            return size


class _Watched(io.TextIOWrapper):
    """A text stream on a `_Losing`."""

    def __init__(self, losing: _Losing, **options: Any) -> None:
        super().__init__(io.BufferedWriter(losing), **options)
        self.losing = losing
