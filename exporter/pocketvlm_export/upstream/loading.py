"""Knows how transformers' models are built around tensors, and how their attention is recorded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)


def model_class(family: str, name: str) -> Any:
    """Return a class or function of the module of a model in transformers, as in ``("llava",
    "LlavaMultiModalProjector")``.

    Projectors and their like are not documented: transformers exports whole models only. Building a
    whole model to use a projector would take the memory of all of it.
    """
    module = import_module(f"transformers.models.{family}.modeling_{family}")
    try:
        return getattr(module, name)
    except AttributeError:  # another release; as an import statement would say it
        raise ImportError(f"cannot import name {name!r} from {module.__name__!r}") from None


def fill(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    state: dict[str, torch.Tensor],
    attention: str,
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Build a model around tensors that are loaded already; returns it and what did not fit.

    ``from_pretrained(None, state_dict=...)`` is how transformers loads GGUF files into itself: the
    parameters are never allocated, so that the weights are in memory once. The second value has
    ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``.
    """
    model, info = cls.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=torch.float32,
        attn_implementation=attention,
        output_loading_info=True,
    )
    return model, info


def reads_tokenizer_json(name: str) -> bool:
    """Whether the class that a tokenizer's configuration names reads tokenizer.json, and no files
    of its own; so transformers reads it too where it knows none of that name, or the base class
    of such tokenizers is named.

    ``tokenizer_class_from_name`` is transformers' own, documented nowhere.
    """
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    made = tokenizer_class_from_name(name)
    if made is None or made.__name__ == "PythonBackend":
        return True
    return isinstance(made, type) and issubclass(made, PreTrainedTokenizerFast)


_RECORDED = "pocketvlm_recorded"


class Listener:
    """Follows a model's run layer by layer, and may hide tokens from the layers to come."""

    def bias(self, number: int) -> torch.Tensor | None:
        """Return what is added to the products of the layer of this number, counted from 0 in the
        order of the run, before their softmax: (..., keys); None for nothing."""
        return None

    def heard(
        self, number: int, maps: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Take a layer's softmaxed maps (heads, queries, keys), and its keys and values, (heads,
        tokens, d) each."""


_Recorded = dict[int, list[torch.Tensor]]


@dataclass(frozen=True)
class _Recording:
    """One run: the layers' maps, the first that is kept, who follows, and keys where they are
    asked for."""

    layers: _Recorded
    first: int | None
    listener: Listener
    keys: _Recorded | None


_recordings: list[_Recording] = []  # none outside of `recorded_attention`


def recording_attention() -> str:
    """Return the name of an attention implementation of transformers that `recorded_attention`
    records, for loading a model with.

    It works for every family: all of transformers' models call a registered function for attention,
    while only some return maps. It computes as their eager attention does.
    """
    import transformers
    from transformers.masking_utils import eager_mask

    transformers.AttentionInterface.register(_RECORDED, _attend)
    transformers.AttentionMaskInterface.register(_RECORDED, eager_mask)
    return _RECORDED


@contextmanager
def recorded_attention(
    first: int | None, listener: Listener | None = None, keys: _Recorded | None = None
) -> Iterator[Mapping[int, Sequence[torch.Tensor]]]:
    """Record the attention of a model loaded with `recording_attention`, for one run of it.

    Gives the softmaxed maps of each layer that has run, in that order: float32 (heads, queries,
    keys) of the only row of the batch. A layer that computes windows one by one gives several.
    Layers before number ``first`` leave theirs empty, all of them where it is None: maps are large.
    The keys of the mapping have no meaning. ``listener`` is called by every layer, whatever is
    recorded. ``keys``, where given, is filled as the mapping is, with what the queries of every
    layer were compared with: float32 (heads, tokens, d).
    """
    layers: _Recorded = {}
    _recordings.append(_Recording(layers, first, listener or Listener(), keys))
    try:
        yield layers
    finally:
        _recordings.pop()


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    products = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        products = products + attention_mask
    for run in _recordings[-1:]:
        run.layers.setdefault(id(module), [])
        bias = run.listener.bias(len(run.layers) - 1)
        products = products if bias is None else products + bias
    maps = products.softmax(dim=-1, dtype=torch.float32)
    for run in _recordings[-1:]:
        if run.first is not None and len(run.layers) > run.first:
            run.layers[id(module)].append(maps[0])
        run.listener.heard(len(run.layers) - 1, maps[0], key[0], value[0])
        if run.keys is not None:
            run.keys.setdefault(id(module), []).append(key[0].float())
    return torch.matmul(maps.to(value.dtype), value).transpose(1, 2).contiguous(), None
