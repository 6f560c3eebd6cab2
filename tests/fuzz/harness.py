"""Knows how a target is fuzzed: a worker process uses inputs one after the other, and this one
counts, ends what hangs, and goes on behind what crashed.

Each line of a target's journal is an input, so that a run that was cut off goes on where it was.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.targets import TARGETS

HANG = 10.0  # seconds of a processor for one input
_WAIT = 60.0  # seconds for one that waits without computing
_START = 240.0  # seconds for a worker to get ready
_TICK = 0.2
_MEMORY = "/dev/shm"
_ROOT = Path(__file__).resolve().parents[2]
_PATHS = ("tests", "tools", "exporter", "runtime", "profiles", "plugins")
SOUND = ("accepted", "refused")


@dataclass
class Result:
    """What became of the inputs of a target.

    Attributes:
        target: its name.
        counts: inputs by outcome.
        findings: (number, outcome, words) of those that are faults.
        refusals: refused inputs by the beginning of their line.
        seconds: of a processor, of all inputs together.
        slowest: seconds of one.
        peak_mb: the most that one took.
    """

    target: str
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str, str]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    peak_mb: float = 0.0

    def take(self, row: list[Any]) -> None:
        """Count an input."""
        number, outcome, seconds, taken, words = row
        self.counts[outcome] += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
        self.peak_mb = max(self.peak_mb, taken)
        if outcome == "refused":
            self.refusals[words[:40]] += 1
        elif outcome != "accepted":
            self.findings.append((number, outcome, words))


def supported() -> bool:
    """Whether this system tells what the harness asks for."""
    return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


def fuzz(
    target: str,
    inputs: int,
    *,
    first: int = 0,
    journal: Path | None = None,
    hang: float = HANG,
    progress: Callable[[Result], None] = lambda _result: None,
) -> Result:
    """Use inputs ``first`` to ``first + inputs`` of a target.

    Args:
        target: a name in `TARGETS`, or a module with a class ``Fuzz``.
        inputs: how many.
        first: the number of the first one.
        journal: where their outcomes are kept; what is in there is not done again.
        hang: seconds of a processor after which an input counts as one that never ends.
        progress: called after each input.
    """
    result, last = Result(target), first + inputs
    for row in _rows(journal):
        if first <= row[0] < last:
            result.take(row)
            first = row[0] + 1
    with (
        tempfile.TemporaryDirectory(prefix="pocketvlm-fuzz-", dir=_room()) as folder,
        Path(journal or os.devnull).open("a") as lines,
    ):
        while first < last:
            for row in _Worker(target, Path(folder), first, last, hang).rows():
                result.take(row)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                progress(result)
                first = row[0] + 1
    return result


def _room() -> str | None:
    """A folder in memory, where there is one with room: inputs are many small files."""
    try:
        return _MEMORY if shutil.disk_usage(_MEMORY).free > 1 << 30 else None
    except OSError:
        return None


class _Worker:
    """One process; it ends with the first input that it does not survive."""

    def __init__(self, target: str, folder: Path, first: int, last: int, hang: float) -> None:
        self._hang = hang
        self._log = folder / "worker.log"
        (root := folder / "root").mkdir(exist_ok=True)
        self._pipe, theirs = os.pipe()
        module = TARGETS.get(target, target)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", module, str(root), str(first), str(last),
                 str(theirs)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[theirs], cwd=folder,
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        os.close(theirs)
        self._number = -1
        self._begun = time.monotonic()
        self._processor = 0.0

    def rows(self) -> Any:
        """What became of each input."""
        waiting = b""
        try:
            while True:
                if select.select([self._pipe], [], [], _TICK)[0]:
                    content = os.read(self._pipe, 1 << 16)
                    if not content:
                        break
                    *lines, waiting = (waiting + content).split(b"\n")
                    for line in lines:
                        if line.startswith(b">"):
                            self._begin(int(line[1:]))
                        else:
                            self._number = -1
                            yield json.loads(line)
                elif stuck := self._stuck():
                    yield [self._number, "hang", time.monotonic() - self._begun, 0.0, stuck]
                    return
            self._process.wait()
            if self._process.returncode:
                yield self._death()
        finally:
            self._end()

    def _begin(self, number: int) -> None:
        self._number, self._begun = number, time.monotonic()
        self._processor = _processor_seconds(self._process.pid)

    def _stuck(self) -> str:
        """Where it is, if its input takes too long; an error where no input has begun."""
        elapsed = time.monotonic() - self._begun
        if self._number < 0:
            if elapsed > _START:
                raise RuntimeError(f"the worker does not get ready: {self._tail()}")
            return ""
        computed = _processor_seconds(self._process.pid) - self._processor
        if computed < self._hang and elapsed < max(_WAIT, self._hang):
            return ""
        os.kill(self._process.pid, signal.SIGUSR1)  # faulthandler says where
        time.sleep(0.3)
        return f"{computed:.0f} s of a processor; {self._tail(600)}"

    def _death(self) -> list[Any]:
        if self._number < 0:
            raise RuntimeError(f"the worker died before its input: {self._tail()}")
        code = self._process.returncode
        if code == 1:  # what an input raises is caught where it is used
            raise RuntimeError(f"input {self._number} was not made: {self._tail()}")
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return [self._number, "crash", 0.0, 0.0, f"{name}; {self._tail(600)}"]

    def _tail(self, most: int = 3000) -> str:
        return " ".join(self._log.read_text(errors="replace")[-most:].split())

    def _end(self) -> None:
        os.close(self._pipe)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _environment() -> dict[str, str]:
    paths = [str(_ROOT / each) for each in _PATHS]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    own = dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH"), "1")
    own |= {"PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **limits, **own}


def _processor_seconds(process: int) -> float:
    """Seconds of a processor that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Seconds of a processor that all workers so far have had."""
    import resource  # Windows has none, and skips

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _rows(journal: Path | None) -> list[list[Any]]:
    """What a journal holds; a last line that was cut off is done again."""
    if journal is None or not journal.exists():
        return []
    *lines, _cut_off = journal.read_text().split("\n")
    journal.write_text("".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in lines]
