"""Knows how `pocketvlm evaluate` is killed again and again, all its processes at once, and whether
what it has written in the end is what one undisturbed run writes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from long_runs.filled import Broken

_SECONDS = 1800.0  # without any further answer
# Of an answer, what no kill may change; the rest are times.
_SAME = ("text", "tokens", "visual_tokens", "budget", "artifact")


@dataclass(frozen=True)
class Killing:
    """What became of a run.

    Attributes:
        kills: how often it was killed.
        at: after how many answers, each time.
        answers: lines of answers in the end.
    """

    kills: int
    at: tuple[int, ...]
    answers: int

    def __str__(self) -> str:
        return (
            f"{self.answers} answers, each once and as undisturbed, though killed {self.kills} "
            f"times (after {', '.join(map(str, self.at))})"
        )


class Evaluation:
    """One `pocketvlm evaluate`, which is begun as often as need be.

    Args:
        artifact: what answers.
        questions: the set, a JSONL file.
        answers: where its answers go; ``.json`` and ``.log`` beside it take the rest.
        options: further ones of the command.
    """

    def __init__(
        self, artifact: Path, questions: Path, answers: Path, options: Sequence[str] = ()
    ) -> None:
        self.answers, self._summary = answers, answers.with_suffix(".json")
        self._log = answers.with_suffix(".log")
        self._command = [
            *(sys.executable, "-m", "pocketvlm", "evaluate", str(artifact)),
            *("--data", str(questions), "--answers", str(answers)),
            *("--json", str(self._summary), *options),
        ]

    def begin(self) -> subprocess.Popen[bytes]:
        """Begin it, or continue with what its file has; all its processes in one group."""
        resumed = ["--resume"] if self.answers.exists() else []
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*self._command, *resumed], stdout=log, stderr=log, start_new_session=True
            )

    def finish(self) -> None:
        """Run it to its end; raises `Broken` where that is not a good one."""
        if self.begin().wait() != 0:
            raise Broken(f"the evaluation failed: {self._log.read_text(errors='replace')[-500:]}")

    def lines(self) -> int:
        """Whole lines of answers so far."""
        written = self.answers.read_bytes() if self.answers.exists() else b""
        return max(0, written.count(b"\n") - 1)  # without the head

    def rows(self) -> list[dict[str, Any]]:
        """The answers."""
        lines = self.answers.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[1:]]

    def scores(self) -> str:
        """What the summary says, without times and where it was measured."""
        return json.dumps(_timeless(json.loads(self._summary.read_text())), sort_keys=True)

    def kill_at(self, count: int, later: float) -> int:
        """Run it until it has so many answers and for so many seconds more, then kill every process
        of it; returns how many answers there are then."""
        process, waited = self.begin(), time.monotonic()
        while self.lines() < count:
            if process.poll() is not None or time.monotonic() > waited + _SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
                raise Broken(f"it ended before: {self._log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)
        time.sleep(later)
        if process.poll() is not None:
            raise Broken("it had ended before it was killed")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return self.lines()


def kill_often(undisturbed: Evaluation, killed: Evaluation, kills: int, seed: int = 0) -> Killing:
    """Finish both, the second after so many kills at drawn moments.

    Raises:
        Broken: their answers or scores differ, or one was counted twice.
    """
    if not undisturbed.answers.with_suffix(".json").exists():
        undisturbed.finish()
    expected = _by_question(undisturbed.rows())
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(1, len(expected) * 9 // 10), kills))
    at = [killed.kill_at(count, draw.uniform(0.0, 0.3)) for count in moments]
    killed.finish()
    rows = killed.rows()
    if (answers := _by_question(rows)) != expected:
        odd = next(key for key in {**expected, **answers} if expected.get(key) != answers.get(key))
        raise Broken(f"question {odd}: {answers.get(odd)} and undisturbed {expected.get(odd)}")
    if killed.scores() != undisturbed.scores():
        raise Broken("the summaries differ")
    return Killing(kills, tuple(at), len(rows))


def _by_question(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    keys = [(row["line"], row["budget"]) for row in rows]
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise Broken(f"{len(twice)} questions were counted twice, the first {twice[0]}")
    return {
        key: {name: row.get(name) for name in _SAME} for key, row in zip(keys, rows, strict=True)
    }


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(each)
            for name, each in value.items()
            if "_ms" not in name and name not in ("machine", "answers", "seconds")
        }
    return [_timeless(each) for each in value] if isinstance(value, list) else value
