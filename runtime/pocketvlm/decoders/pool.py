"""Knows which sequences live on a decoder, and which of them gives its cache back when memory runs
short."""

from __future__ import annotations

import itertools
import os
import weakref

from pocketvlm.decoders.base import Decoder, closed
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm.errors import EngineError
from pocketvlm.limits import SequenceLimits


class ConversationCache:
    """What one conversation keeps between its answers: a sequence, or none yet.

    Attributes:
        sequence: the one of its latest answer.
    """

    def __init__(self) -> None:
        self.sequence: PooledSequence | None = None


class PooledSequence(CachedSequence):
    """A `CachedSequence` with what the pool knows of it.

    Attributes:
        lent: whether an answer is being computed on it.
        last_used: a number that grows with every answer; -1 for a sequence of no conversation.
    """

    lent = False
    last_used = -1


class SequencePool:
    """The sequences of one loaded model.

    Whatever lends or frees is called under the model's lock, except for `give_back`. That one may
    run at any moment in any thread, where a stream is collected as garbage: it waits for no lock,
    and touches nothing but the sequence that is given back.
    """

    def __init__(self, decoder: Decoder, limits: SequenceLimits | None = None) -> None:
        self._decoder = decoder
        self._limits = limits or SequenceLimits()
        # Weak: a conversation that nobody holds any more takes its cache with it.
        # Replaced as a whole, so that it can be read without the lock.
        self._sequences: tuple[weakref.ref[PooledSequence], ...] = ()
        self._clock = itertools.count()
        self._closed = False
        self._process = os.getpid()

    @property
    def cache_bytes(self) -> int:
        """Bytes that the caches of all sequences take now; waits for no lock."""
        return sum(cached.sequence.cache_bytes for cached in self._living())

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in another process, begun by a fork after the model was loaded.

        The engines' threads are not copied, nor whoever held a lock: waiting for either takes for
        ever.
        """
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raise `EngineError` in a process that was forked after the model was loaded."""
        if self.is_forked:
            raise EngineError(
                "this model was loaded before this process was forked",
                advice="load it again here, or begin processes by spawn",
            )

    def check_open(self) -> None:
        """Raise `EngineError` where the model is closed, or was loaded in another process."""
        self.check_process()
        if self._closed:
            raise closed("this model")

    def borrow(self, conversation: ConversationCache | None) -> PooledSequence:
        """A sequence for one answer, which nobody else has until it is given back.

        That of ``conversation``; for None a new one, which ends with the answer. Where another
        answer of the conversation is still under way, the conversation gets a new one too.

        Raises:
            PocketVLMError: the model is closed.
        """
        self.check_open()
        cached = conversation.sequence if conversation is not None else None
        if cached is None or cached.lent:
            cached = PooledSequence(self._decoder.sequence())
            self._sequences = tuple(map(weakref.ref, [*self._living(), cached]))
        cached.lent = True
        if conversation is not None:
            conversation.sequence = cached
            cached.last_used = next(self._clock)
        return cached

    def give_back(self, cached: PooledSequence, conversation: ConversationCache | None) -> None:
        """End what `borrow` began: ``conversation`` keeps the cache, if it still wants it."""
        if conversation is None or conversation.sequence is not cached or self._closed:
            cached.close()
        else:
            cached.lent = False

    def forget(self, conversation: ConversationCache) -> None:
        """Free what a conversation keeps; an answer under way frees its own at its end."""
        cached, conversation.sequence = conversation.sequence, None
        if cached is not None and not cached.lent:
            cached.close()

    def trim(self) -> None:
        """Free caches of waiting conversations until the rest is within the limit, see
        `SequenceLimits`."""
        by_use = sorted(self._living(), key=lambda cached: cached.last_used)
        total = self.cache_bytes
        for cached in by_use[:-1]:
            if total <= self._limits.memory_bytes:
                break
            if not cached.lent:
                total -= cached.sequence.cache_bytes
                cached.reset()

    def close(self) -> None:
        """Free all caches, those of answers under way with their end; lend no more."""
        self._closed = True
        for cached in self._living():
            if not cached.lent:
                cached.close()

    def _living(self) -> list[PooledSequence]:
        return [cached for ref in self._sequences if (cached := ref()) is not None]
