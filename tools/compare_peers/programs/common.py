"""Knows how a peer's program communicates: settings in, ``{"ready": ...}`` out, then for every line
with a picture a line with times.

The programs run in their peers' own environments, so nothing here needs more than Python and
Pillow.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


@dataclass
class Stopwatch:
    """Times one answer; call `token` for every token picked. ``asked`` is what came with the
    picture."""

    started: float
    asked: Mapping[str, Any] = field(default_factory=dict)
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0

    def token(self) -> None:
        """Record that a token has come."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.tokens += 1


def read_settings() -> dict[str, Any]:
    """The settings of the program: one JSON object on its command line."""
    parsed: dict[str, Any] = json.loads(sys.argv[1])
    return parsed


def serve(answer: Callable[[Path, Stopwatch], int], version: str) -> None:
    """Answer about one picture per line of standard input, ``{"picture": path}`` and what else is
    asked; ``answer`` returns how many tokens the prompt had."""
    speak = sys.stdout.write
    speak(json.dumps({"ready": version}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        watch = Stopwatch(time.perf_counter(), asked)
        prompt_tokens = answer(Path(asked["picture"]), watch)
        report = {
            "ttft": (watch.first - watch.started) * 1e3,
            "decode": (watch.last - watch.first) * 1e3 / max(watch.tokens - 1, 1),
            "tokens": watch.tokens,
            "prompt_tokens": prompt_tokens,
            "peak_mb": peak_mb(),
        }
        speak(json.dumps(report) + "\n")
        sys.stdout.flush()


def peak_mb() -> float:
    """Largest resident set so far in MB; 0 where the system does not count it."""
    if not _STATUS.exists():
        return 0.0
    return (
        next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if "VmHWM" in line)
        * 1024
        / 1e6
    )
