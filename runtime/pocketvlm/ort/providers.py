"""Knows the short names of ONNX Runtime's execution providers, and which builds have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from pocketvlm.errors import RequestError

# One line for each: the name on the command line, and ONNX Runtime's. Any other name is passed on
# as it is.
PROVIDERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cpu": "CPUExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "xnnpack": "XnnpackExecutionProvider",
        "nnapi": "NnapiExecutionProvider",
        "qnn": "QNNExecutionProvider",
        "webgpu": "WebGpuExecutionProvider",
        "cuda": "CUDAExecutionProvider",
        "directml": "DmlExecutionProvider",
    }
)
# Packages on PyPI with a provider that the plain one does not have. Each is the module
# ``onnxruntime`` itself, so that an environment has one of them.
BUILDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OpenVINOExecutionProvider": "onnxruntime-openvino",
        "QNNExecutionProvider": "onnxruntime-qnn",
        "WebGpuExecutionProvider": "onnxruntime-webgpu",
        "CUDAExecutionProvider": "onnxruntime-gpu",
        "DmlExecutionProvider": "onnxruntime-directml",
    }
)
CPU: Final = PROVIDERS["cpu"]
_FORM: Final = "NAME[:KEY=VALUE,...]"


def read_provider(text: str) -> tuple[str, dict[str, str]]:
    """ONNX Runtime's name and options of a provider as it is typed, ``NAME[:KEY=VALUE,...]``.

    A value has no comma in it: an option that needs one is given to `pocketvlm.Provider` in Python.

    Raises:
        RequestError: it is written otherwise, or gives an option twice, or the CPU's provider one.
    """
    name, _, rest = text.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",")] if rest else []
    options = {key.strip(): value.strip() for key, _, value in pairs}
    if not name.strip() or not all(options) or not all(equals for _, equals, _ in pairs):
        raise RequestError(f"the provider {text!r}", expected=_FORM, setting="provider")
    if len(options) < len(pairs):
        raise RequestError(
            f"the provider {text!r} gives an option twice", advice="choose one", setting="provider"
        )
    full = PROVIDERS.get(name.strip().lower(), name.strip())
    if full == CPU and options:  # ONNX Runtime would ignore them without a word
        raise RequestError(
            f"the CPU's provider has no option {next(iter(options))!r}",
            advice="leave it out; --threads is an option of its own",
            setting="provider",
        )
    return full, options


def missing(name: str, available: Iterable[str]) -> RequestError:
    """The refusal of a provider that the installed ONNX Runtime does not have; of a name
    that is not a provider's at all, what may have been meant."""
    build = BUILDS.get(name)
    if name not in PROVIDERS.values() and not name.endswith("ExecutionProvider"):
        near = get_close_matches(name.lower(), PROVIDERS, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return RequestError(
            f"execution provider {name!r} is unknown; this ONNX Runtime has {', '.join(available)}",
            advice=f"{meant}short names are {', '.join(PROVIDERS)}",
            setting="providers",
        )
    instead = f", as pip install {build} in an environment of its own" if build else ""
    return RequestError(
        f"execution provider {name!r} is not in this ONNX Runtime, which has "
        f"{', '.join(available)}",
        advice=f"install a build of onnxruntime that has it{instead}",
        setting="providers",
    )
