"""Knows which sequences live on a decoder, from which of them a prompt continues, and which gives
its cache back when there are too many or memory runs short."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders.base import Decoder, Segment, TokenSegment, closed
from pocketvlm.decoders.prefix import CachedSequence, joined, run_ends
from pocketvlm.errors import EngineError
from pocketvlm.limits import SequenceLimits

_LEAST = 4  # tokens; to look for fewer and copy them gains nothing


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
        kept: whether it belongs to no conversation and stays after its answer.
        last_used: a number that grows with every answer; -1 for a sequence that ends with its own.
    """

    lent = False
    kept = False
    last_used = -1


class SequencePool:
    """The sequences of one loaded model.

    Whatever lends or frees is called under the model's lock, except for `give_back`. That one may
    run at any moment in any thread, when a stream is garbage-collected. So it waits for no lock,
    and touches only the sequence that is given back.

    Args:
        decoder: what they live on.
        limits: how much is kept.
        beginning: gives the token ids, int64 (n,), that prompts of the model begin with; None where
            nothing is kept of them.
    """

    def __init__(
        self,
        decoder: Decoder,
        limits: SequenceLimits | None = None,
        beginning: Callable[[], npt.NDArray[np.int64]] | None = None,
    ) -> None:
        self._decoder = decoder
        self._limits = limits or SequenceLimits()
        # Weak: a conversation that nobody holds any more takes its cache with it.
        # Replaced as a whole, so that it can be read without the lock.
        self._sequences: tuple[weakref.ref[PooledSequence], ...] = ()
        self._kept: tuple[PooledSequence, ...] = ()  # those of no conversation
        self._begin_with = beginning
        self._beginning: PooledSequence | None = None
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

    def borrow(
        self, conversation: ConversationCache | None, prompt: Sequence[Segment] | None = None
    ) -> PooledSequence:
        """A sequence for one answer, until `give_back`.

        Args:
            conversation: whose it is, with what it holds of the conversation so far, or a further
                one where that is lent already; None for one of no conversation.
            prompt: what will be prefilled. The sequence then continues from whatever begins as it
                does, and stays after its answer. None to continue from the conversation alone.

        Raises:
            EngineError: see `check_open`, and of an engine that cannot begin a sequence.
        """
        self.check_open()
        shares = prompt is not None and self._limits.kept > 0
        asked = joined(prompt or ()) if shares else []
        own = None if conversation is None else conversation.sequence
        own = None if own is None or own.lent else own
        donor, shared = self._nearest(asked)
        cached = own
        if conversation is None and donor in self._kept and not donor.lent:
            cached = None if donor.loses(shared) else donor
        if cached is None:
            cached = self._begun(kept=shares and conversation is None)
        if donor not in (None, cached) and shared - cached.shared(asked) >= _LEAST:
            cached.fork_from(donor, shared)
        cached.lent = True
        if conversation is not None:
            conversation.sequence = cached
        if conversation is not None or cached.kept:
            cached.last_used = next(self._clock)
        return cached

    def keep_beginning(self, cached: PooledSequence) -> None:
        """Hold what every prompt of the model begins with, of one that has been read; once."""
        held = self._beginning is not None and self._beginning.sequence.length
        if held or self._closed or self._begin_with is None or not self._limits.kept:
            return
        ids = self._begin_with()
        # As of a prompt that continues: of the last token of one the logits are wanted.
        if len(ids) < _LEAST or cached.shared([TokenSegment(np.append(ids, -1))]) < len(ids):
            return
        beginning = self._begun()
        beginning.fork_from(cached, len(ids))
        self._beginning = beginning

    def give_back(self, cached: PooledSequence, conversation: ConversationCache | None) -> None:
        """End what `borrow` began: ``conversation`` keeps the cache, if it still wants it."""
        stays = cached.kept or (conversation is not None and conversation.sequence is cached)
        if not stays or self._closed:
            cached.close()
        else:
            cached.lent = False

    def forget(self, conversation: ConversationCache) -> None:
        """Free what a conversation keeps; an answer under way frees its own at its end."""
        cached, conversation.sequence = conversation.sequence, None
        if cached is not None and not cached.lent:
            cached.close()

    def trim(self) -> None:
        """Free caches of those that wait until the rest is within the limits, see
        `SequenceLimits`."""
        for cached in self._kept:
            if not cached.lent:
                cached.shrink()
        self._trim_number()
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
        self._kept, self._beginning, living = (), None, self._living()
        for cached in living:
            if not cached.lent:
                cached.close()

    def _trim_number(self) -> None:
        """Let go of kept sequences until there are no more than the limit."""
        by_use = sorted(self._kept, key=lambda cached: cached.last_used)
        empty = [cached for cached in by_use if not cached.lent and not cached.sequence.length]
        while empty or len(by_use) > self._limits.kept:
            idle = [cached for cached in by_use[:-1] if not cached.lent]
            of_text = [cached for cached in by_use if not cached.has_picture]
            of_text = [cached for cached in of_text if cached in idle] if len(of_text) > 2 else []
            going = [*empty, *of_text, *idle]
            if not going:
                break
            by_use.remove(going[0])
            empty = empty[1:]
            going[0].close()
        self._kept = tuple(by_use)

    def _begun(self, *, kept: bool = False) -> PooledSequence:
        """A new sequence that holds nothing."""
        sequence = self._decoder.sequence()
        fixed = self._limits.fixed_runs and self._decoder.measures_runs
        cached = PooledSequence(sequence, self._divided if fixed else None)
        self._sequences = tuple(map(weakref.ref, [*self._living(), cached]))
        if kept:
            cached.kept, self._kept = True, (*self._kept, cached)
        return cached

    def _divided(self, prompt: Sequence[Segment]) -> list[int]:
        """See `run_ends`; whatever is kept, so that a prompt is always divided alike."""
        beginning = np.zeros(0, dtype=np.int64) if self._begin_with is None else self._begin_with()
        return run_ends(prompt, beginning)

    def _nearest(self, prompt: Sequence[Segment]) -> tuple[PooledSequence | None, int]:
        """The sequence that begins as a prompt does for longest, and for how many tokens; one that
        nobody has to copy comes first among equals."""
        if not prompt:
            return None, 0
        # One that is lent may be freed by `give_back` while it is copied, unless it is kept.
        safe = [cached for cached in self._living() if cached.kept or not cached.lent]
        near = [(cached.shared(prompt), not cached.lent, cached) for cached in safe]
        shared, _, cached = max(near, key=lambda each: each[:2], default=(0, False, None))
        return (cached, shared) if shared >= _LEAST else (None, 0)

    def _living(self) -> list[PooledSequence]:
        return [cached for ref in self._sequences if (cached := ref()) is not None]
