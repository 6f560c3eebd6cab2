"""Knows how engines are set up: threads, prepacking, execution providers; and the cores of this
machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from pocketvlm.errors import RequestError
from pocketvlm.limits import plain, settle_numbers, whole
from pocketvlm.ort.providers import missing, read_provider

CPU_PROVIDER: Final = "CPUExecutionProvider"  # every build of ONNX Runtime has it
ProviderOption = str | int | float | bool

_TOPOLOGY = Path("/sys/devices/system/cpu")  # Linux
_MAX_PER_PROCESSOR = 4  # threads; many more bring the whole machine to a halt


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers: what computes the nodes of a graph.

    >>> from pocketvlm import Provider
    >>> Provider("OpenVINOExecutionProvider", {"device_type": "CPU"}) == Provider.typed(
    ...     "openvino:device_type=CPU"
    ... )
    True

    Two with the same name and options are equal and hash alike.

    Attributes:
        name: as ONNX Runtime spells it, ``"CPUExecutionProvider"``.
        options: the provider's own, as ONNX Runtime documents them.
    """

    name: str
    options: Mapping[str, ProviderOption] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        options = {name: plain(value) for name, value in self.options.items()}
        object.__setattr__(self, "options", options)  # the caller's may change later

    @classmethod
    def typed(cls, text: str) -> Self:
        """A provider as the command line takes it, ``"openvino:device_type=CPU"``; raises
        `RequestError`, see `pocketvlm.ort.providers.read_provider`."""
        return cls(*read_provider(text))


@dataclass(frozen=True)
class EngineSettings:
    """How the engines of an artifact are opened. Nothing in an artifact can change it.

    >>> from pocketvlm import VLM, EngineSettings
    >>> settings = EngineSettings(threads=1, prepack=False)  # for a question or two
    >>> VLM.load("demo-vlm", settings=settings).generate("How are you?").visual_tokens
    {'before': 0, 'after': 0}

    Attributes:
        threads: of each engine; None leaves its default, the physical cores.
        prepack: whether ONNX Runtime copies each weight into the order that products read fastest.
            Without, a float32 graph multiplies straight from the mapped file: 3.2 GB of CLIP-L and
            a 0.5B decoder opened in 0.1 s instead of 13. Each picture and prompt then cost a fifth
            to a half more, each token a tenth. Graphs of other precisions are always prepacked, see
            `for_precision`; llama.cpp repacks or maps weights by their type.
        memory_limit: MB (10^6 bytes) that answering may take: a second decoder that is not
            necessary is opened only within it. None is the free memory, 0 means no limit.
        providers: ONNX Runtime's, the preferred one first. It gives the CPU what none of them
            computes. llama.cpp does not read them.
        vision_providers: those of the vision graphs, with either engine; None is ``providers``.

    Raises:
        RequestError: threads that are not a whole number, or too many for this machine; no
            provider, or one that the installed ONNX Runtime lacks.
    """

    threads: int | None = None
    prepack: bool = True
    providers: tuple[Provider, ...] = (Provider(CPU_PROVIDER),)
    memory_limit: int | None = None
    vision_providers: tuple[Provider, ...] | None = None

    def __post_init__(self) -> None:
        settle_numbers(self)
        check_threads(self.threads)
        if self.memory_limit is not None:
            whole(self.memory_limit, "memory_limit", least=0)
        for name in ("providers", "vision_providers"):
            providers = getattr(self, name)
            if isinstance(providers, list):
                object.__setattr__(self, name, providers := tuple(providers))
            if providers is not None or name == "providers":
                _check_providers(providers)

    @property
    def for_vision(self) -> Self:
        """These settings for a vision graph."""
        if self.vision_providers is None:
            return self
        return replace(self, providers=self.vision_providers, vision_providers=None)

    @property
    def every_provider(self) -> tuple[Provider, ...]:
        """All that compute something, each once: those of decoders first."""
        return tuple(dict.fromkeys((*self.providers, *(self.vision_providers or ()))))

    def for_precision(self, precision: str) -> Self:
        """These settings for a graph of ``precision``, ``"fp32"`` or another.

        Products of integers take 3 to 40 times as long where their weights are not prepacked, so
        for them ``prepack`` has no effect.
        """
        return self if precision == "fp32" else replace(self, prepack=True)


def check_threads(threads: int | None) -> None:
    """Raise `RequestError` for a number of threads that this machine has no use for.

    None is the engine's default.
    """
    if threads is None:
        return
    whole(threads, "threads")
    processors = os.cpu_count() or 1
    if not 1 <= threads <= _MAX_PER_PROCESSOR * processors:
        raise RequestError(
            f"threads={threads}",
            expected=f"1..{_MAX_PER_PROCESSOR * processors} on a machine of {processors} "
            f"processors",
            advice="or none for its default",
            setting="threads",
        )


def physical_cores() -> int:
    """Cores that this process may use.

    Two hardware threads of one core count once, where the system says which are.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    try:
        siblings = {
            (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable
        }
    except OSError:
        return len(usable)
    return len(siblings)


def _check_providers(providers: Any) -> None:
    if not isinstance(providers, tuple):
        raise _no_providers(f"providers is of type {type(providers).__name__}")
    for provider in providers:
        if not isinstance(provider, Provider):
            raise _no_providers(f"an execution provider is of type {type(provider).__name__}")
    if not providers:
        raise RequestError("no execution provider", advice="name one", setting="providers")
    if {provider.name for provider in providers} == {CPU_PROVIDER}:
        return
    import onnxruntime  # here, because most settings need not wait for it

    available = onnxruntime.get_available_providers()
    for provider in providers:
        if provider.name not in available:
            raise missing(provider.name, available)


def _no_providers(found: str) -> RequestError:
    return RequestError(
        found,
        expected="a tuple of pocketvlm.Provider",
        advice=f'give (Provider("{CPU_PROVIDER}"),)',
        setting="providers",
    )


def providers_typed(texts: Sequence[str]) -> tuple[Provider, ...]:
    """Providers as the command line takes them; the CPU's own where none is given."""
    return tuple(map(Provider.typed, texts)) or (Provider(CPU_PROVIDER),)


def vision_providers_typed(texts: Sequence[str]) -> tuple[Provider, ...] | None:
    """Those of the vision graphs as the command line takes them; None where none is given."""
    return tuple(map(Provider.typed, texts)) or None


DEFAULT_SETTINGS: Final = EngineSettings()
