"""Knows every private or experimental API of other libraries that the runtime uses: nothing else
may import one.

A new release of a library that moves one of them is the work of this module alone. Each entry names
the versions that it was tried with; ``tests/runtime/test_upstream.py`` tries the installed ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

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


# Keyword arguments of ``onnxruntime.InferenceSession``, undocumented at its constructor. Tried with
# onnxruntime 1.31.1.
#
# ``enable_fallback``: raise where an execution provider fails, instead of printing to standard
# output and going on with another one; the documented ``disable_fallback`` comes too late.
# ``read_config_from_model``: take no session options from a graph. Where the environment variable
# ``ORT_LOAD_CONFIG_FROM_MODEL`` is 1, which asks for them, the session is then refused.
ORT_SESSION_ARGUMENTS: Final[Mapping[str, int]] = MappingProxyType(
    {"enable_fallback": 0, "read_config_from_model": 0}
)
