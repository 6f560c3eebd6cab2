"""Knows who is answered now, who waits, and who is sent away: first come, first served."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from pocketvlm.server.errors import Refusal

_LONGEST_WAIT = 60  # seconds that anybody is asked to wait before asking again
_MEMORY = 0.8  # weight of the answers before in the mean of their durations


class Queue:
    """Lets so many requests through at once; others wait in line, as many as are allowed.

    It is used within one event loop.

    Args:
        parallel: answers under way at once.
        most: requests that may wait.
    """

    def __init__(self, parallel: int, most: int) -> None:
        self._parallel = parallel
        self._most = most
        self._line: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0  # that an answer takes, in the mean
        self.running = 0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def check(self) -> None:
        """Raise `Refusal` 429 where one more could not even wait."""
        if self.running >= self._parallel and len(self._line) >= self._most:
            ahead = (len(self._line) + 1) / self._parallel
            raise Refusal(
                429,
                f"{self.running} requests are answered and {self._most} wait, the most that may",
                code="queue_full",
                retry_after=max(1, min(_LONGEST_WAIT, math.ceil(ahead * self._seconds))),
            )

    async def enter(self) -> None:
        """Wait in line; `leave` must follow. Raises as `check`."""
        self.check()
        if self.running < self._parallel:
            self.running += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place in self._line:
                self._line.remove(place)
            elif not place.cancelled():  # it was this one's turn at the same moment
                self.leave()
            raise

    def leave(self, seconds: float | None = None) -> None:
        """Make room for the next in line; ``seconds`` that the answer took."""
        if seconds is not None:
            self._seconds = _MEMORY * self._seconds + (1 - _MEMORY) * seconds
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)  # who has it runs in place of who leaves
                return
        self.running -= 1
