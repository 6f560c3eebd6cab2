"""Knows every private or experimental API of other libraries that the runtime uses: nothing else
may import one.

A new release of a library that moves one of them is the work of this module alone. Each entry names
the versions that it was tried with; ``tests/runtime/test_upstream.py`` tries the installed ones.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

# What libraries do by themselves, and how their documentation says that it is turned off. Each is
# read once, as its library is imported.
#
# ``ORT_DISABLE_TELEMETRY``: official builds of ONNX Runtime from 1.29 on write a device id and a
# database into the user's cache folder, and ``.ses`` into the folder for temporary files, as soon
# as they are imported. After a minute they upload what the machine and its programs are like.
# ``disable_telemetry_events()`` comes too late for the files and for the first upload. Tried with
# 1.31.1, see its Privacy.md.
# ``HF_HUB_DISABLE_TELEMETRY``: versions of other libraries go into each request to the Hub.
# ``RAY_USAGE_STATS_ENABLED``: a cluster reports itself to its makers.
_OPT_OUTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ORT_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)

_ORT_STATUS: Final = (
    "Fail",
    "InvalidArgument",
    "NoSuchFile",
    "NoModel",
    "EngineError",
    "RuntimeException",
    "InvalidProtobuf",
    "ModelLoaded",
    "NotImplemented",
    "InvalidGraph",
    "EPFail",
    "NotFound",
)


def opt_out() -> None:
    """Have libraries report nothing to anybody; called before any of them is imported.

    Environment variables, so that every process begun from here has them too. Those that are set
    already are left as they are. Where ONNX Runtime was imported before, what it has not done yet
    is turned off: its files are written by then, so such a program sets the variable itself.
    """
    for name, value in _OPT_OUTS.items():
        if not os.environ.get(name):
            os.environ[name] = value
    if (ort := sys.modules.get("onnxruntime")) and os.environ["ORT_DISABLE_TELEMETRY"] == "1":
        # Missing while it is being imported, and in builds from before 1.5.
        getattr(ort, "disable_telemetry_events", lambda: None)()


@contextmanager
def ort_path(path: Path) -> Iterator[str]:
    """What ONNX Runtime is given for ``path``: its Python binding takes names in UTF-8 alone.

    Another folder is named by the number under which this process has it open, which Linux knows.
    The name of the file itself must be UTF-8.

    Raises:
        OSError: the folder's name is not UTF-8, and this system cannot name it otherwise.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            other = f"/proc/self/fd/{folder}/{path.name}"
            if not Path(other).exists():
                raise OSError("its folder's name is not UTF-8") from None
            yield other
        finally:
            os.close(folder)
    else:
        yield str(path)


@functools.cache
def ort_errors() -> tuple[type[Exception], ...]:
    """Everything that ONNX Runtime raises while it opens or runs a graph, for an ``except`` clause.

    Private: the exceptions of its status codes live in
    ``onnxruntime.capi.onnxruntime_pybind11_state`` and share no base class of their own. Not every
    release has all of them; those that are missing are left out. What else pybind11 raises is a
    ``RuntimeError`` or a ``ValueError``.

    Tried with onnxruntime 1.31.1.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = (getattr(state, name, None) for name in _ORT_STATUS)
    return (*(error for error in named if error is not None), RuntimeError, ValueError)


def ort_devices(providers: Collection[str]) -> list[list[Any]]:
    """What ONNX Runtime knows of the devices of these execution providers: vendor, numbers, and
    what a provider says of each, such as its driver.

    Experimental: ``get_ep_devices``, since 1.23; not every provider lists its devices there, and
    older releases none. Tried with onnxruntime 1.31.1.
    """
    import onnxruntime as ort

    errors: tuple[type[Exception], ...] = (*ort_errors(), AttributeError, TypeError)
    try:
        listed: Any = getattr(ort, "get_ep_devices", list)()
        return sorted(
            [
                each.ep_name,
                each.device.vendor,
                each.device.vendor_id,
                each.device.device_id,
                sorted(each.ep_metadata.items()),
                sorted(each.device.metadata.items()),
            ]
            for each in listed
            if each.ep_name in providers
        )
    except errors:
        return []


def decoder_settings(decoder: Any) -> dict[str, Any]:
    """A decoder of the tokenizers library as tokenizer.json states it.

    Private: the class has no method for that, but what it is pickled as is this JSON. Tried with
    tokenizers 0.23.3.
    """
    settings: dict[str, Any] = json.loads(decoder.__getstate__())
    return settings


def takes_its_environment(function: Callable[..., Any]) -> bool:
    """Whether a filter of jinja2's is given its environment or the like before the value.

    Private: the mark that ``pass_environment`` and its like leave on it. Tried with jinja2 3.1.
    """
    return hasattr(function, "jinja_pass_arg")


# Keyword arguments of ``onnxruntime.InferenceSession``, undocumented at its constructor. Tried with
# onnxruntime 1.31.1.
#
# ``enable_fallback``: raise where an execution provider fails, instead of printing to standard
# output and continuing with another one; the documented ``disable_fallback`` comes too late.
# ``read_config_from_model``: take no session options from a graph. Where the environment variable
# ``ORT_LOAD_CONFIG_FROM_MODEL`` is 1, which asks for them, the session is then refused.
ORT_SESSION_ARGUMENTS: Final[Mapping[str, int]] = MappingProxyType(
    {"enable_fallback": 0, "read_config_from_model": 0}
)


def impatient_protocol(silent: float, unread: float) -> type[asyncio.Protocol]:
    """HTTP as uvicorn's server speaks it, for clients that hold a connection and do nothing; for
    ``uvicorn.Config(http=...)``.

    uvicorn closes a connection that is idle after a response. But it waits for ever for the first
    request, for headers that come byte by byte, for the rest of a refused body, and for clients
    that do not read.

    Args:
        silent: seconds until the next request must have begun, line and headers.
        unread: seconds until a client must have read on, where much waits for it.

    Tried with uvicorn 0.54, whose protocols are documented as an option, not what is in them.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._deadlines: dict[str, asyncio.TimerHandle] = {}

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for deadline in self._deadlines.values():
                deadline.cancel()

        def on_response_complete(self) -> None:
            answered = self.cycle
            super().on_response_complete()  # where the next request may have come already
            if self.cycle is answered:
                self._await_request()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._end_after(unread, "unread", lambda: True)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._deadlines.pop("unread").cancel()

        def _await_request(self) -> None:
            last = self.cycle
            self._end_after(silent, "silent", lambda: self.cycle is last)

        def _end_after(self, seconds: float, reason: str, holds: Callable[[], bool]) -> None:
            def end() -> None:
                if holds():
                    self.transport.abort()  # closing it would wait for what is not read

            if reason in self._deadlines:
                self._deadlines[reason].cancel()
            self._deadlines[reason] = self.loop.call_later(seconds, end)

    return Protocol
