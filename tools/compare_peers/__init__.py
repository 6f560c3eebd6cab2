"""Compares time to first token with other runtimes that answer from the same checkpoint."""

from contextlib import suppress

# It turns off what libraries report. A peer's environment has no pocketvlm, and inherits the
# variables of whoever runs it.
with suppress(ImportError):
    import pocketvlm  # noqa: F401
