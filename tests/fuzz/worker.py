"""A process that uses one input after the other, and says what became of each; see harness.py.

``python -m fuzz.worker MODULE FOLDER FIRST LAST PIPE``. It writes "> NUMBER" before an input, and
its outcome behind it, as JSON.
"""

import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import Any

from fuzz.base import LINK, SECRET, SECRET_TEXT, Target, empty
from fuzz.watch import Watch, contents
from pocketvlm.artifact import integrity
from pocketvlm.errors import PocketVLMError

_MOST_FILE = 256 << 20
_LONGEST = 2000  # characters of a refusal


def main() -> None:
    module, root, first, last, pipe = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_FILE, _MOST_FILE))
    session = Session(module, root)
    for number in range(first, last):
        os.write(pipe, b"> %d\n" % number)
        os.write(pipe, json.dumps([number, *session.attempt(number)]).encode() + b"\n")


class Session:
    """A target that is ready for inputs."""

    def __init__(self, module: str, root: Path) -> None:
        self.name = module
        self.box, own = root / "box", root / "own"
        seeds = own / "seeds"
        empty(own)
        for folder in (seeds, own / "tmp", own / "home"):
            folder.mkdir()
        (root / SECRET).write_text(SECRET_TEXT)
        _settle(own)
        self.target: Target = importlib.import_module(module).Fuzz()
        self.target.prepare(seeds)
        self.watch = Watch(root, self.box, own)
        most = (_status("VmData") >> 20) + self.target.memory_mb + self.target.headroom_mb
        resource.setrlimit(resource.RLIMIT_DATA, (most << 20, most << 20))

    def write(self, random: Random) -> None:
        """Make the folder of an input."""
        empty(self.box)
        self.target.write(random, self.box)
        if self.target.links and not (self.box / LINK).exists():
            (self.box / LINK).symlink_to(f"../{SECRET}")

    def attempt(self, number: int, random: Random | None = None) -> tuple[str, float, float, str]:
        """Outcome of an input, seconds of a processor and MB that it took, and words on it."""
        self.target.number = number
        self.write(random or Random(f"{self.name}:{number}"))
        before, resident = contents(self.box), _forget_peak()
        started = time.process_time()
        with self.watch() as notes:
            outcome, words = self._outcome()
        seconds = time.process_time() - started
        taken = (_status("VmHWM") - resident) / 1e6
        if notes:
            outcome, words = "outside", "; ".join(notes)[:400]
        elif contents(self.box) != before:
            outcome, words = "outside", "its own folder was changed"
        elif taken > self.target.memory_mb and outcome in ("accepted", "refused"):
            outcome, words = "memory", f"{taken:.0f} MB"
        return outcome, round(seconds, 4), round(taken, 1), words

    def _outcome(self) -> tuple[str, str]:
        try:
            return self.target.use(self.box) or "accepted", ""
        except (PocketVLMError, *self.target.refusals) as error:
            return _refusal(error)
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            sys.stderr.write("".join(traceback.format_exception(error)[-12:])[-4000:] + "\n")
            return "traceback", f"{type(error).__name__} at {where}: {str(error)[:200]}"


def _refusal(error: Exception) -> tuple[str, str]:
    """A refusal, or what is wrong with its line."""
    line = str(error)
    if len(line.splitlines()) != 1:
        return "line", f"several lines, or none: {line[:200]!r}"
    if len(line) > _LONGEST:
        return "line", f"{len(line)} characters: {line[:200]!r}"
    try:
        line.encode()
    except UnicodeEncodeError:
        return "line", f"cannot be printed: {line[:200]!r}"
    return "refused", line[:120]


def _settle(own: Path) -> None:
    """What the product keeps lies in ``own``, and it meets nothing of this machine's."""
    places: dict[str, Any] = {
        "XDG_CACHE_HOME": own / "cache",
        "HF_HOME": own / "hub",
        "HF_HUB_OFFLINE": 1,
        "HOME": own / "home",
        "TMPDIR": own / "tmp",
    }
    os.environ.update({name: str(value) for name, value in places.items()})
    tempfile.tempdir = None  # where it was looked up before
    # Files are seconds older in life than here; without this each one is waited for.
    integrity._STEP = 0


def _forget_peak() -> int:
    """Begin to measure memory anew; the bytes that the process has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """A line of what the system says of this process, in bytes."""
    with Path("/proc/self/status").open() as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


if __name__ == "__main__":
    main()
