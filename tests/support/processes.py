"""Knows how to start a process that can be interrupted."""

import signal


def heed_interrupts() -> None:
    """For ``preexec_fn``: a test run in the background is born with SIGINT ignored, and so would be
    its children."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
