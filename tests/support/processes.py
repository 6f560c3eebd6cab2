"""Knows how processes of tests are started: one that can be interrupted, one of a module here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

_TESTS = Path(__file__).parents[1]


def heed_interrupts() -> None:
    """For ``preexec_fn``: a test run in the background is born with SIGINT ignored, and so would be
    its children."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def run_module(module: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests, such as ``support.noise``, to its end, which must be a good one.

    ``options`` are `subprocess.run`'s; ``env`` is added to this process's environment.
    """
    path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **options.pop("env", {}), "PYTHONPATH": path},
        **options,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done
