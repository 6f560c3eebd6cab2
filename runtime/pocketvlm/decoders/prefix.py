"""Knows what a sequence's cache holds, so that of a prompt only what differs from the one before is
computed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pocketvlm.decoders.base import DecoderSequence, EmbeddingSegment, Segment, TokenSegment

# Of a joined prompt the lengths after which runs end, ascending, its own last; see `run_ends`.
Division = Callable[[Sequence[Segment]], Sequence[int]]

# Where prompts are divided: tokens of text in one run, and of a beginning that is worth its own.
_LONGEST_TEXT, _LEAST_BEGINNING = 256, 16


class CachedSequence:
    """A sequence that is given whole prompts and computes only what its cache does not hold yet.

    Text is compared token by token, pictures by the keys of their segments. What the cache holds is
    written down after a step has succeeded, so an interrupt at any moment costs a longer prefill,
    never a wrong answer.

    Without a ``division`` a prompt continues from any token, and the rest is read in one run. With
    one it is read in the runs that the division names, and continues only behind runs of the cache
    that are its own too. Then what the cache holds of a question is the same whatever was asked
    before, bit for bit. A further turn continues from the answer as it was decoded, token by token.

    Attributes:
        sequence: the one it wraps, which nobody else may change.
    """

    def __init__(self, sequence: DecoderSequence, division: Division | None = None) -> None:
        self.sequence = sequence
        self._division = division
        self._prompt: list[Segment] = []  # prefilled last
        self._decoded: list[int] = []  # tokens decoded since
        self._ends: list[int] = []  # lengths after which runs over the prompt ended
        self._turns: list[int] = []  # those of them at which an answer that was decoded ended

    def prefill(self, segments: Sequence[Segment]) -> tuple[npt.NDArray[np.float32], int]:
        """Logits float32 (vocab,) after ``segments``, a whole prompt, and how many of its tokens
        were in the cache already.

        Raises:
            PocketVLMError: see `DecoderSequence.prefill`.
        """
        prompt = joined(segments)
        total = sum(map(len, prompt))
        ends = [total] if self._division is None else list(self._division(prompt))
        cached = self._common(prompt)
        earlier = [end for end in self._ends if end <= cached]
        turns = [end for end in self._answered() if end <= cached]
        self._forget()
        self.sequence.keep(cached)
        cached = self.sequence.length
        further = [end for end in ends if end > cached] or [total]  # of none the sequence refuses
        logits = self._read(prompt, cached, further)
        self._prompt, self._ends = prompt, sorted({*earlier, cached, *further} - {0})
        self._turns = turns
        return logits, cached

    def _read(
        self, prompt: Sequence[Segment], start: int, ends: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """The logits after a prompt whose first ``start`` tokens are cached, in runs that end at
        ``ends``."""
        *earlier, _ = ends
        spent: Counter[str] = Counter()
        for end in earlier:
            self.sequence.prefill(after(before(prompt, end), start))
            spent.update(self.sequence.timings_ms)
            start = end
        logits = self.sequence.prefill(after(prompt, start))
        if earlier:
            self.sequence.timings_ms = {**(spent + Counter(self.sequence.timings_ms))}
        return logits

    def _common(self, prompt: Sequence[Segment]) -> int:
        """How many tokens of a `joined` prompt the cache holds that it can continue from."""
        held = self._held()
        # The last token is always computed: its logits are what is asked for.
        most = max(0, min(common_length(held, prompt), sum(map(len, prompt)) - 1))
        if self._division is None:
            return most
        places = self._places(self._division(prompt), most)
        return max(filter(self._from, places), default=0)

    def _places(self, ends: Sequence[int], most: int) -> set[int]:
        """The lengths up to ``most`` that a prompt may continue from whose own runs end at
        ``ends``: behind an answer, and behind runs from there, or from the start, that are all the
        same."""
        turns = [end for end in self._answered() if end <= most]
        places = set(turns)
        for start in (0, *turns):
            cached, own = (
                [end for end in each if start < end <= most] for each in (self._ends, ends)
            )
            pairs = zip(cached, own, strict=False)
            places.update(
                end for end, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
            )
        return places

    def _answered(self) -> list[int]:
        """The lengths at which what was decoded ends."""
        ended = [sum(map(len, self._prompt)) + len(self._decoded)] if self._decoded else []
        return [*self._turns, *ended]

    def _from(self, length: int) -> bool:
        """Whether the sequence can be cut to just so many tokens."""
        return self.sequence.reach(length) == length

    def decode(self, token_id: int) -> npt.NDArray[np.float32]:
        """See `DecoderSequence.decode`."""
        logits = self.sequence.decode(token_id)
        self._decoded.append(token_id)
        return logits

    def shared(self, prompt: Sequence[Segment]) -> int:
        """Tokens of a `joined` prompt that need not be computed on this one, or on its `fork`."""
        common = self._common(prompt)
        return self.sequence.reach(common) if common else 0

    def loses(self, shared: int) -> bool:
        """Whether something worth keeping goes where this one is left with ``shared`` tokens and
        continues from there: a picture, or text that is more than what stays. What was asked about
        a picture that stays is not."""
        held = before(self._held(), self.sequence.reach(self.sequence.length))
        lost, kept = after(held, shared), before(held, shared)
        if any(isinstance(segment, EmbeddingSegment) for segment in lost):
            return True
        has_picture = any(isinstance(segment, EmbeddingSegment) for segment in kept)
        return not has_picture and sum(map(len, lost)) > shared

    @property
    def has_picture(self) -> bool:
        """Whether what it holds is about a picture, and not text alone."""
        return any(isinstance(segment, EmbeddingSegment) for segment in self._prompt)

    def fork_from(self, other: CachedSequence, length: int) -> None:
        """Begin with the first ``length`` tokens that another holds, a number that its `shared`
        gave; what this one held is gone."""
        sequence = other.sequence.fork(length)
        self.close()
        self.sequence = sequence
        self._prompt = before(other._held(), sequence.length)
        self._ends = [end for end in other._ends if end < sequence.length] + [sequence.length]
        self._turns = [end for end in other._answered() if end <= sequence.length]

    def shrink(self) -> None:
        """Free what no further prompt could continue from."""
        if (reach := self.sequence.reach(self.sequence.length)) < self.sequence.length:
            turns = [end for end in self._answered() if end <= reach]
            self._prompt, self._decoded = before(self._held(), reach), []
            self._ends, self._turns = [end for end in self._ends if end <= reach], turns
            self.sequence.keep(reach)

    def reset(self) -> None:
        """See `DecoderSequence.reset`."""
        self._forget()
        self.sequence.reset()

    def close(self) -> None:
        """See `DecoderSequence.close`."""
        self._forget()
        self.sequence.close()

    def _forget(self) -> None:
        self._prompt, self._decoded, self._ends, self._turns = [], [], [], []

    def _held(self) -> list[Segment]:
        """What the cache holds, `joined`."""
        return joined([*self._prompt, TokenSegment(np.array(self._decoded, dtype=np.int64))])


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """The same sequence with neighbouring stretches of text made one, and empty segments left
    out."""
    result: list[Segment] = []
    for segment in segments:
        if len(segment) == 0:
            continue
        last = result[-1] if result else None
        if isinstance(segment, TokenSegment) and isinstance(last, TokenSegment):
            result[-1] = TokenSegment(np.concatenate([last.ids, segment.ids]))
        else:
            result.append(segment)
    return result


def run_ends(prompt: Sequence[Segment], beginning: npt.NDArray[np.int64]) -> list[int]:
    """After how many tokens each run over a `joined` prompt ends, its own length last.

    Runs end behind the ``beginning`` that prompts of a model have in common, int64 (n,), where that
    is 16 tokens or more, behind each picture, and after every 256 tokens of a stretch of text. The
    prompt alone decides on them. Two prompts that begin alike are divided alike there, but for
    their own ends, and for pictures of which only one continues.
    """
    ends: list[int] = []
    length = 0
    for number, segment in enumerate(prompt):
        if isinstance(segment, TokenSegment):
            first = len(beginning) if number == 0 else 0
            if first >= _LEAST_BEGINNING and np.array_equal(segment.ids[:first], beginning):
                ends.append(first)
            else:
                first = 0
            ends += range(length + first + _LONGEST_TEXT, length + len(segment), _LONGEST_TEXT)
        elif not _goes_on(prompt[number + 1 :]):
            ends.append(length + len(segment))
        length += len(segment)
    return ends if ends and ends[-1] == length else [*ends, length]


def _goes_on(following: Sequence[Segment]) -> bool:
    """Whether a picture has a further part among the segments that follow it."""
    pictures = (segment for segment in following if isinstance(segment, EmbeddingSegment))
    return next((picture.continues for picture in pictures), False)


def common_length(one: Sequence[Segment], other: Sequence[Segment]) -> int:
    """Tokens that two `joined` sequences begin with alike; a picture counts whole or not at all."""
    length = 0
    for left, right in zip(one, other, strict=False):
        same = _same(left, right)
        length += same
        if not same == len(left) == len(right):
            break
    return length


def after(segments: Sequence[Segment], position: int) -> list[Segment]:
    """The sequence without its first ``position`` tokens."""
    result: list[Segment] = []
    for segment in segments:
        skipped = min(position, len(segment))
        position -= skipped
        if skipped == 0:
            result.append(segment)
        elif skipped < len(segment) and isinstance(segment, TokenSegment):
            result.append(TokenSegment(segment.ids[skipped:]))
        elif skipped < len(segment) and isinstance(segment, EmbeddingSegment):
            result.append(_rest(segment, skipped))
    return result


def before(segments: Sequence[Segment], position: int) -> list[Segment]:
    """The first ``position`` tokens of a sequence; a picture that would be cut is left out, with
    what follows."""
    result: list[Segment] = []
    for segment in segments:
        if len(segment) <= position:
            result.append(segment)
        elif isinstance(segment, TokenSegment) and position:
            result.append(TokenSegment(segment.ids[:position]))
        if len(segment) >= position:
            break
        position -= len(segment)
    return result


def _rest(picture: EmbeddingSegment, skipped: int) -> EmbeddingSegment:
    """A picture without its first tokens. It equals no other, and has no grid: where positions
    follow from rows and columns a part alone is refused, as it would begin again."""
    extras = {name: values[skipped:] for name, values in picture.extras.items()}
    scores = None if picture.visual_scores is None else picture.visual_scores[skipped:]
    return EmbeddingSegment(picture.inputs_embeds[skipped:], extras=extras, visual_scores=scores)


def _same(left: Segment, right: Segment) -> int:
    """How many tokens two segments begin with alike."""
    if isinstance(left, TokenSegment) and isinstance(right, TokenSegment):
        shorter = min(len(left), len(right))
        differing = np.flatnonzero(left.ids[:shorter] != right.ids[:shorter])
        return int(differing[0]) if len(differing) else shorter
    if isinstance(left, EmbeddingSegment) and isinstance(right, EmbeddingSegment):
        equal = (
            left.key is not None
            and (left.key, left.grid, len(left)) == (right.key, right.grid, len(right))
            and (left.kept is None or right.kept is None or np.array_equal(left.kept, right.kept))
        )
        return len(left) if equal else 0
    return 0
