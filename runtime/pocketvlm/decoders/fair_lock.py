"""Knows a lock that threads get in the order in which they ask for it."""

from __future__ import annotations

import threading
from collections import deque


class _Place:
    """A thread's place in the line; ``turn`` can be acquired once it is the first."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.turn = threading.Lock()
        self.turn.acquire()


class FairLock:
    """A lock for ``with``, first come, first served.

    `threading.Lock` promises no order. A thread that releases it and asks again at once, as one
    that decodes token after token does, gets it before all that wait. Here it is handed to the
    first of those. It cannot be taken twice by one thread.

    Ctrl-C may come at any moment, so also just before ``__exit__`` does its work. That thread then
    has the lock still, and continues with it when it asks again.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for moments, by whoever changes what follows
        self._owner: int | None = None
        self._line: deque[_Place] = deque()

    def __enter__(self) -> None:
        """Wait for everyone who asked before."""
        me, place = threading.get_ident(), None
        try:
            with self._guard:
                if self._owner in (None, me):
                    self._owner = me
                    return
                place = _Place()
                self._line.append(place)
            place.turn.acquire()
            self._leave_line(place)
        except BaseException:  # Ctrl-C
            if place is not None:
                self._leave_line(place)
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        """Hand the lock to the first who waits."""
        with self._guard:
            if self._owner != threading.get_ident():
                return  # interrupted before it was this thread's turn
            # Who gets it leaves the line by itself: an interrupt in here loses nobody's place.
            first = self._line[0] if self._line else None
            self._owner = None if first is None else first.thread
            if first is not None:
                first.turn.release()

    @property
    def waiting(self) -> int:
        """Threads that wait for it now."""
        return len(self._line)

    def _leave_line(self, place: _Place) -> None:
        with self._guard:
            if place in self._line:
                self._line.remove(place)
