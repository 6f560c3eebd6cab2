"""A target with a fault of every kind, by which the harness itself is tested: what an input does
follows from its number alone."""

import ctypes
import os
import subprocess
from pathlib import Path
from random import Random

import numpy as np

from fuzz.base import SECRET, Target, put
from pocketvlm.errors import ArtifactError

FAULTS = (
    "accepted", "refused", "traceback", "abort", "hang", "memory", "write", "read", "native",
    "change", "process", "network", "lines", "exit", "segfault", "link", "surrogate",
)  # fmt: skip


class Fuzz(Target):
    """See the module."""

    threat = "none: it tests the harness"
    memory_mb = 100

    def write(self, random: Random, box: Path) -> None:
        del random
        put(box / "input", FAULTS[self.number % len(FAULTS)].encode())

    def use(self, box: Path) -> None:
        fault = (box / "input").read_text()
        if fault == "refused":
            raise ArtifactError("it is damaged", advice="copy it again")
        if fault == "traceback":
            raise KeyError("nobody expected this")
        if fault == "abort":
            os.abort()
        if fault == "segfault":
            ctypes.string_at(8)
        while fault == "hang":
            pass
        if fault == "memory":
            np.ones(40 << 20).sum()  # 320 MB
        if fault == "write":
            (box.parent / "new").write_text("1")
        if fault == "read":
            (box.parent / SECRET).read_text()
        if fault == "link":
            (box / "link.json").read_text()
        if fault == "native":  # as a library does that Python knows nothing of
            library = ctypes.CDLL(None)
            library.close(library.open(os.fsencode(box.parent / SECRET), os.O_RDONLY))
        if fault == "change":
            ctypes.CDLL(None).truncate(os.fsencode(box / "input"), 1)
        if fault == "process":
            subprocess.run(["true"], check=True)
        if fault == "network":
            with __import__("socket").socket() as socket:
                socket.connect_ex(("127.0.0.1", 1))
        if fault == "lines":
            raise _Raw("one\ntwo")
        if fault == "surrogate":
            raise _Raw("half a character: \ud800")
        if fault == "exit":
            raise SystemExit(3)


class _Raw(ArtifactError):
    """An error whose line is not put in order."""

    def __str__(self) -> str:
        return self.found
