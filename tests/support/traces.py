"""Knows how the exports of test runs share what torch traces: a module's structure is traced once,
and other weights of the same structure are put into a copy of that graph."""

import enum
import functools
import hashlib
import io
import json
import marshal
import os
import pickle
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from transformers import GenerationConfig

from pocketvlm import layouts
from pocketvlm.artifact import metadata
from pocketvlm_export import decoder_stages, families, graphs, pruning, tower_stages, towers
from pocketvlm_export.graphs import Graph

_LIBRARIES = ("torch", "transformers", "onnxscript", "onnx_ir", "onnx")  # that a trace depends on
_KEPT_DAYS = 14  # since a trace was last used
_ORDER = "initializers"  # property of a stored graph: [[name, name in the module or null], ...]
# What is traced: whose code and constants a test may have changed.
_PACKAGES = (decoder_stages, families, graphs, layouts, pruning, tower_stages, towers)
_TRACED = (*(package.__name__ for package in _PACKAGES), "pocketvlm_export.upstream")
_OF_TOWERS = (
    *(package.__name__ for package in (pruning, tower_stages, towers)),
    *(f"{graphs.__name__}.{name}" for name in ("vision_encoder", "token_selector")),
)
_OF_DECODERS = (
    decoder_stages.__name__,
    *(f"{graphs.__name__}.{name}" for name in ("decoder", "staged_decoder", "embed_tokens")),
)
UNREAD: Mapping[str, tuple[str, ...]] = {
    metadata.DECODER: _OF_TOWERS,
    metadata.SCORING_DECODER: _OF_TOWERS,
    metadata.EMBED_TOKENS: _OF_TOWERS,
    metadata.VISION_ENCODER: _OF_DECODERS,
    metadata.CANDIDATES: _OF_DECODERS,
    metadata.SELECTOR: _OF_DECODERS,
}
"""By kind of graph how the names of modules begin that tracing one does not read."""


def kept_traces(cache: Path) -> Path:
    """The folder in ``cache`` for traces by the libraries of this environment, in which those of
    earlier runs lie; what was not used for long is removed from all such folders."""
    stated = " ".join([sys.version, *(f"{name} {version(name)}" for name in _LIBRARIES)])
    folder = cache / hashlib.sha256(stated.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - _KEPT_DAYS * 86_400
    for path in cache.glob("*/*"):
        with suppress(FileNotFoundError):  # another process of the run removes it too
            if path.stat().st_mtime < oldest:
                path.unlink()
    return folder


class Traces:
    """Graphs in ``folder``, one for each `structure` that was traced.

    ``reused`` counts those that were not traced.
    """

    def __init__(self, folder: Path, trace: Callable[[Graph], ir.Model]) -> None:
        for package in _PACKAGES:  # modules that are imported when needed
            for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
                import_module(module.name)
        self.folder = folder
        self.trace = trace
        self.reused = 0

    def __call__(self, graph: Graph) -> ir.Model:
        """Return what the tracer gives for ``graph``."""
        key = structure(graph)
        if key is None:
            return self.trace(graph)
        path = self.folder / f"{key}.onnx"
        if path.exists():
            self.reused += 1
            path.touch()
        else:
            _store(self.trace(graph), graph.module, path)
        # The first time too: its bytes are others than those of what the tracer gives.
        return _load(path, graph.module)


def structure(graph: Graph) -> str | None:
    """Return what the trace of a graph depends on, as a name: everything that its objects hold,
    except for the values of parameters, which the tracer does not see either, and the exporter's
    code as it is now.

    None where an object cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        _Structure(stream, protocol=5).dump(graph)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    digest = hashlib.sha256(stream.getbuffer())
    for part in _state(graph.kind):
        digest.update(part)
    return digest.hexdigest()


def _state(kind: str) -> Iterator[bytes]:
    """The code of what is traced for a kind of graph, and the constants of its modules and
    classes."""
    unread = UNREAD.get(kind, ())
    for name in sorted(sys.modules):
        if name.startswith(_TRACED) and not name.startswith(unread):
            yield from _of(vars(sys.modules[name]), depth=4)


def _of(value: Any, depth: int) -> Iterator[bytes]:
    """What a value of a module or class says of what is done with it."""
    if isinstance(value, FunctionType):
        yield marshal.dumps(value.__code__, 2)
        yield from _of((value.__defaults__, value.__kwdefaults__), 2)
        for cell in (value.__closure__ or ()) if depth > 0 else ():
            yield from _of(cell.cell_contents, depth - 1)
    elif isinstance(value, enum.Enum):  # an integer or a text too, but none that is written as one
        yield repr(value).encode()
    elif isinstance(value, CodeType | int | float | str | bytes | None):
        yield marshal.dumps(value, 2)
    elif isinstance(value, staticmethod | classmethod):
        yield from _of(value.__func__, depth)
    elif isinstance(value, property):
        yield from _of(value.fget, depth)
    elif isinstance(value, functools.cached_property):
        yield from _of(value.func, depth)
    elif callable(getattr(value, "cache_info", None)):  # a function whose results are kept
        yield from _of(value.__wrapped__, depth)
    elif isinstance(value, set | frozenset):  # in an order that is the same in every process
        yield repr(sorted(map(repr, value))).encode()
    elif depth > 0 and is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        yield from _of(vars(value) if hasattr(value, "__dict__") else (), depth - 1)
    elif depth > 0 and isinstance(value, type):
        yield value.__qualname__.encode()
        if value.__module__.startswith(_TRACED):
            yield from _of(dict(vars(value)), depth - 1)
    elif depth > 0 and isinstance(value, Mapping):
        for key, held in value.items():
            # Of names such as __slotnames__ some come with the first use of a class.
            if not str(key).startswith("__") or isinstance(held, FunctionType):
                yield str(key).encode()
                yield from _of(held, depth - 1)
    elif depth > 0 and isinstance(value, tuple | list):
        for held in value:
            yield from _of(held, depth - 1)
    else:
        yield type(value).__qualname__.encode()


class _Structure(pickle.Pickler):
    """Pickles parameters as their sizes and as which of them are one; buffers, which may become
    constants of the graph, with their values."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: dict[int, int] = {}

    def persistent_id(self, value: Any) -> Any:
        """Return what is pickled in the place of ``value``; None for itself."""
        if isinstance(value, torch.nn.Parameter):
            number = self.seen.setdefault(value.data_ptr(), len(self.seen))
            return ("parameter", number, str(value.dtype), tuple(value.shape), value.stride())
        if isinstance(value, torch.Tensor):
            digest = hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
            return ("tensor", digest, str(value.dtype), tuple(value.shape), value.stride())
        if isinstance(value, torch.export.Dim):  # 28 times another is made by a lambda
            return ("dim", value.__name__, repr(getattr(value, "root", value)))
        if isinstance(value, GenerationConfig):  # no graph reads it, and it holds a random hash
            return ("generation",)
        if type(value) in (set, frozenset):  # in an order that is the same in every process
            return (type(value).__name__, sorted(map(repr, value)))
        return None


def _weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _store(model: ir.Model, module: torch.nn.Module, path: Path) -> None:
    """Write a copy of ``model`` without the values of the module's parameters and buffers, which
    are inputs of it instead."""
    places = {
        (tensor.data_ptr(), tuple(tensor.shape)): name for name, tensor in _weights(module).items()
    }
    stored = model.clone()
    order: list[tuple[str, str | None]] = []
    for name, value in list(stored.graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        held = (raw.data_ptr(), tuple(raw.shape)) if isinstance(raw, torch.Tensor) else None
        order.append((name, places.get(held) if held else None))
        if order[-1][1] is not None:
            del stored.graph.initializers[name]
            value.const_value = None
            stored.graph.inputs.append(value)
    stored.metadata_props[_ORDER] = json.dumps(order)
    temporary = path.with_suffix(f".{os.getpid()}")  # others may write the same
    ir.save(stored, temporary)
    temporary.replace(path)


def _load(path: Path, module: torch.nn.Module) -> ir.Model:
    """Return the stored graph with the values of ``module``."""
    model, weights = ir.load(path), _weights(module)
    order = json.loads(model.metadata_props.pop(_ORDER))
    inputs = {str(value.name): value for value in model.graph.inputs}
    constants = dict(model.graph.initializers)
    model.graph.initializers.clear()
    for name, place in order:
        value = constants[name] if place is None else inputs[name]
        if place is not None:
            model.graph.inputs.remove(value)
            value.const_value = TorchTensor(weights[place].detach(), name=name)
        model.graph.initializers[name] = value
    return model
