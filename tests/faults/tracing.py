"""Knows how disturbed exports share what torch traces with the exports of tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from install_llama_cpp import CACHE
from pocketvlm_export import build
from pocketvlm_export.graphs import trace
from support.traces import Traces, kept_traces


@contextmanager
def traces_shared() -> Iterator[None]:
    """Within it a structure that was traced before is not traced again; all else is as ever."""
    with mock.patch.object(build, "trace", Traces(kept_traces(CACHE / "traces"), trace)):
        yield
