"""Knows how answers are kept, one per line, so that a run that was killed continues where it
was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from pocketvlm_measure.evaluation.asking import Reply
from pocketvlm_measure.evaluation.plan import Key, Subject
from pocketvlm_measure.line_file import LineFile

_CASE = ("artifact", "line", "budget", "decoder", "decoder_precision", "vision_precision")
_CAPS = ("max_pixels", "max_tiles")  # of the head, unless a row has its own
_TYPES: dict[str, type | tuple[type, ...]] = {
    "line": int,
    "budget": int,
    "text": str,
    "tokens": int,
    "visual_tokens": int,
}
_TTFT = "ttft_ms"  # of an answer that shared its prefill there is none


class Journal(LineFile):
    """The answers of one run, see `LineFile`; a question whose line was cut off is asked again.

    Attributes:
        replies: what has been answered, refusals not included.
    """

    format: ClassVar[str] = "pocketvlm answers 1"
    contents: ClassVar[str] = "answers"
    made: ClassVar[str] = "answered"

    def __init__(self, path: Path, head: dict[str, Any], *, resume: bool) -> None:
        """See `LineFile`."""
        self.replies: dict[Key, Reply] = {}
        super().__init__(path, head, resume=resume)

    def add(self, subject: Subject, replies: list[Reply]) -> None:
        """Write replies down, all at once. Refusals are written for people to read; a resumed run
        asks them again."""
        rows, answered = [], {}
        by_budget = {case.budget: case for case in subject.cases}
        for reply in replies:
            key = subject.key(reply.line, by_budget[reply.budget])
            caps = zip(_CAPS, key[len(_CASE) :], strict=True)
            fields = dataclasses.asdict(reply)
            rows.append(
                dict(zip(_CASE, key, strict=False))
                | {name: cap for name, cap in caps if cap != self.head.get(name)}
                | {k: v for k, v in fields.items() if v is not None}
            )
            if reply.error is None:
                answered[key] = reply
        self.write(rows)
        self.replies |= answered

    def take(self, row: dict[str, Any]) -> bool:
        """See `LineFile`; of two answers to one question the first counts."""
        if row.get("error") is not None:
            return True
        caps = [row.get(name, self.head.get(name)) for name in _CAPS]
        if not (
            all(isinstance(row.get(name), kind) for name, kind in _TYPES.items())
            and isinstance(row.get(_TTFT), int | float | None)
            and all(isinstance(row.get(name), str) for name in ("artifact", *_CASE[3:]))
            and all(cap is None or isinstance(cap, int) for cap in caps)
        ):
            return False
        key: Key = (*(row[name] for name in _CASE), *caps)
        media = row.get("media")
        by = row.get("answered_by")
        reply = Reply(
            **{name: row[name] for name in _TYPES},
            ttft_ms=row.get(_TTFT),
            media=media and str(media),
            answered_by=by and str(by),
        )
        self.replies.setdefault(key, reply)
        return True
