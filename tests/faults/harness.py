"""Knows how one fault is tried: a child of this process does the work and meets it, another looks
at what is left and does the work again."""

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from faults.scenarios import Scenario
from faults.shim import Shim

LONGEST = 240  # seconds of one child
_LEFT = re.compile(r"\..+\.[0-9a-f]{16}\.(partial|old|tmp)|\..+\.lock")
_UNEXPECTED = 99  # a child that ended by an error that is not a refusal
# How a process may end that met a fault; of a signal as shells report it, or by it.
ENDS = {
    **{fault: {0, 1} for fault in ("eio", "enospc", "short", "full", "dead")},
    **{fault: {-signal.SIGKILL} for fault in ("kill", "torn")},
    "term": {-signal.SIGTERM, 128 + signal.SIGTERM},
    "int": {128 + signal.SIGINT},
}


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code or less its signal, what it sent back, what it printed."""

    code: int
    sent: dict[str, object]
    printed: str


class Bench:
    """A scenario, and the folder that its points are tried in, one after the other."""

    def __init__(self, name: str, scenario: Scenario, base: Path, shim: Shim) -> None:
        self.name, self.scenario, self._shim = name, scenario, shim
        self._template, self._run, self._log = base / "template", base / "run", base / "log"
        base.mkdir(parents=True)
        self._run.mkdir()
        done = self._child(lambda: self._finished(scenario.prepare))
        assert done.code == 0, f"{name} cannot be prepared:\n{done.printed}"
        shutil.copytree(self._run, self._template, symlinks=True)
        done = self._child(lambda: self._finished(scenario.work), count=True)
        assert done.code == 0, f"{name} fails undisturbed:\n{done.printed}"
        self.operations = int(str(done.sent["counted"]))
        done = self._child(lambda: repr(scenario.result()))
        assert done.code == 0, f"{name} has no result:\n{done.printed}"
        self.result = done.sent["value"]
        assert not left_in(self._run), f"{name} leaves {left_in(self._run)}"

    def tried(self, number: int, fault: str) -> list[str]:
        """What is wrong after one fault, a line each."""
        shutil.rmtree(self._run, ignore_errors=True)
        shutil.copytree(self._template, self._run, symlinks=True)
        ended = self._child(lambda: self._finished(self.scenario.work), number, fault)
        where = f"{self.name}, {fault} at {number} ({ended.sent.get('operation', '')})"
        wrong = [f"{where}: {problem}" for problem in _problems(ended, fault)]
        left = left_in(self._run)
        after = self._child(self._after)
        if after.code:
            return [*wrong, f"{where}: afterwards {_last(after.printed)}"]
        if after.sent["value"] != self.result:
            wrong.append(f"{where}: another result than undisturbed")
        unnamed = [p.name for p in left if p.suffix in (".partial", ".old")]
        wrong += [f"{where}: {n} is not named" for n in unnamed if n not in after.printed]
        wrong += [f"{where}: {path.name} is left" for path in left_in(self._run)]
        return wrong

    def _after(self) -> str:
        """Look at the state, do the work again, and return the result."""
        print("state:", self.scenario.state(), file=sys.stderr, flush=True)
        self._finished(self.scenario.again)
        return repr(self.scenario.result())

    @staticmethod
    def _finished(work: Callable[[], None]) -> str:
        try:
            work()
        except SystemExit as ended:
            if ended.code:
                raise
        return ""

    def _child(
        self,
        work: Callable[[], str],
        number: int = -1,
        fault: str | None = None,
        *,
        count: bool = False,
    ) -> Ended:
        """Run ``work`` in a child, in the folder; armed where a fault is named or it counts."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            self._be_a_child(work, number, fault, writing, armed=count or fault is not None)
        os.close(writing)
        code = _wait_for(child)
        with os.fdopen(reading, "rb") as pipe:
            sent = pipe.read()
        return Ended(code, json.loads(sent) if sent else {}, self._log.read_text(errors="replace"))

    def _be_a_child(
        self, work: Callable[[], str], number: int, fault: str | None, pipe: int, *, armed: bool
    ) -> None:
        code, value = _UNEXPECTED, ""
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.chdir(self._run)
            os.environ["XDG_CACHE_HOME"] = str(self._run / "cache")
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.dup2(log, 2)
            if armed:
                self._shim.arm(self._run, number, fault)
            value = hashlib.sha256(work().encode()).hexdigest()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            self._shim.disarm()
            sys.stderr.flush()
            sent = {"value": value, "counted": self._shim.counted}
            sent["operation"] = self._shim.operation
            with os.fdopen(pipe, "wb") as stream:
                stream.write(json.dumps(sent).encode())
            os._exit(code)


def left_in(folder: Path) -> list[Path]:
    """What is beside a destination that nobody asked for, wherever under a folder. A lock file of a
    cache is nothing: it locks nothing, and is taken over when something is written there again."""
    paths = [path for path in folder.rglob(".*") if _LEFT.fullmatch(path.name)]
    return sorted(p for p in paths if p.suffix != ".lock" or folder / "cache" not in p.parents)


def _problems(ended: Ended, fault: str) -> Iterable[str]:
    if ended.code not in ENDS[fault]:
        yield f"ended with {ended.code}: {_last(ended.printed)}"
    elif ended.code == 1 and not _last(ended.printed).startswith(("error: ", "Error: ")):
        yield f"its last line is {_last(ended.printed)}"
    if "Traceback" in ended.printed:
        yield f"printed a traceback: {_last(ended.printed)}"


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing printed"])[-1]


def _wait_for(child: int) -> int:
    """The exit code of a child, or less its signal; one that hangs is killed."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1000
