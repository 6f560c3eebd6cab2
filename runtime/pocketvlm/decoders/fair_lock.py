"""Knows a lock that threads get in the order in which they ask for it."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock for ``with``, first come, first served.

    `threading.Lock` promises no order: a thread that releases it and asks again at once, as one
    that decodes token after token does, gets it before all who wait. Here it is handed to the first
    of those. It cannot be taken twice by one thread.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for moments, by whoever changes what follows
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()  # each is released when it is its turn

    def __enter__(self) -> None:
        """Wait for everyone who asked before."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            place = threading.Lock()
            place.acquire()
            self._waiting.append(place)
        try:
            place.acquire()
        except BaseException:  # Ctrl-C while waiting
            with self._guard:
                if place in self._waiting:
                    self._waiting.remove(place)
                else:
                    self._hand_on()
            raise

    def __exit__(self, *_: object) -> None:
        """Hand the lock to the first who waits."""
        with self._guard:
            self._hand_on()

    @property
    def waiting(self) -> int:
        """Threads that wait for it now."""
        return len(self._waiting)

    def _hand_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._taken = False
