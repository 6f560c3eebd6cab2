"""Knows how an interrupt ends an export although a library loses it, and never between two renames.

Python turns Ctrl-C into an exception wherever it happens to be. Some places lose it: weak
references' callbacks, ``__del__``, and above all methods that C++ calls. torch asks sizes whether
they are integers while it parses arguments, takes an exception for "no", and traces on in another
way.
"""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_EVERY = 0.3  # seconds


class _Interrupts:
    """The first interrupt of an export, until it has ended it."""

    def __init__(self) -> None:
        self.asked: BaseException | None = None
        self.number = 0
        self.holds = 0

    def arrive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: remember it, and raise what ends the program, unless it has to wait."""
        if self.asked is None:
            self.number = number
            is_ctrl_c = number == signal.SIGINT
            self.asked = KeyboardInterrupt() if is_ctrl_c else SystemExit(128 + number)
        self.check()

    def check(self) -> None:
        """Raise what was asked for."""
        if self.asked is not None and not self.holds:
            raise self.asked

    def repeat(self, ended: threading.Event) -> None:
        """Have it arrive again and again until a block has ended."""
        while not ended.wait(_EVERY) and self is _current:
            if self.asked is not None:
                _thread.interrupt_main(signal.Signals(self.number))


_current: _Interrupts | None = None


@contextmanager
def heeded() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP end a block, whatever libraries do with the exception.

    The first raises KeyboardInterrupt, the others SystemExit with 128 and their number. A lost one
    is raised again within `repeated`, at the next `check`, or at the latest at the block's end, in
    place of any other exception. A signal that is ignored, as nohup does it, stays ignored; a
    handler for SIGINT that is not Python's own stays too. In a thread other than the main one, and
    within another such block, this does nothing.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = _current = _Interrupts()
    numbers = [
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    ]
    previous = {
        number: handler
        for number in numbers
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
        and (number != signal.SIGINT or handler is signal.default_int_handler)
    }
    try:
        for number in previous:
            signal.signal(number, interrupts.arrive)
        yield
    except BaseException as error:
        if interrupts.asked is not None and error is not interrupts.asked:
            raise interrupts.asked from error
        raise
    finally:
        _current = None
        for number, handler in previous.items():
            signal.signal(number, handler)
    interrupts.check()


def check() -> None:
    """End the block of `heeded` here if an interrupt has arrived and was lost; to be called between
    steps."""
    if (interrupts := _mine()) is not None:
        interrupts.check()


@contextmanager
def repeated() -> Iterator[None]:
    """Have an interrupt arrive again and again until it gets out of a block: a long call into a
    library that loses some, and nothing that cleans up."""
    if (interrupts := _mine()) is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=interrupts.repeat, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with held():  # not once more while this ends
            ended.set()
            thread.join()


@contextmanager
def held() -> Iterator[None]:
    """Let interrupts wait for the end of a short block that must not be cut in two."""
    if (interrupts := _mine()) is None:
        yield
        return
    interrupts.holds += 1
    try:
        yield
    finally:
        interrupts.holds -= 1
    interrupts.check()


def _mine() -> _Interrupts | None:
    """Those of this thread: signals are the main thread's."""
    return _current if threading.current_thread() is threading.main_thread() else None
