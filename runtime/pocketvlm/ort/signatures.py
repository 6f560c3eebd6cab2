"""Knows which inputs and outputs each kind of graph has, and which of their sizes the manifest
fixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnxruntime as ort

from pocketvlm.artifact import Manifest, metadata
from pocketvlm.artifact.specs import CAUSAL, POSITION_AXES, TEXT_EMBEDS, DecoderSpec, Vision
from pocketvlm.errors import ArtifactError

# Of a decoder that scores tokens: rows of the run, and what their attention pays to each token.
SCORED_ROWS, TOKEN_SCORES = "scored_rows", "token_scores"

Shapes = Mapping[
    str, tuple[int | None, ...]
]  # by tensor name; None is an axis that may have any size


_KEPT_TOKENS = "kept_tokens"
# Up to the dot of those that are numbered; all others are float32.
_INT64 = frozenset(
    {
        "input_ids",
        "attention_mask",
        "position_ids",
        "picture_ids",
        "kept_indices",
        _KEPT_TOKENS,
        SCORED_ROWS,
    }
)


@dataclass(frozen=True)
class Signature:
    """The tensors that a graph must have; it may have others."""

    inputs: Shapes
    outputs: Shapes

    def check(self, name: str, session: ort.InferenceSession) -> None:
        """Raise `PocketVLMError` where the graph called ``name`` lacks a tensor, or gives it
        another shape or type."""
        _check(name, session.get_inputs(), self.inputs)
        _check(name, session.get_outputs(), self.outputs)


def type_of(tensor: str) -> str:
    """``int64`` or ``float32``: the type of a graph's input or output of this name."""
    return "int64" if tensor.partition(".")[0] in _INT64 else "float32"


def signature(manifest: Manifest, kind: str, budget: int | None = None) -> Signature:
    """What a graph of this kind, one of `metadata.GRAPH_KINDS`, has; vision graphs that select, and
    selectors, keep ``budget`` tokens."""
    spec = manifest.decoder
    if kind == metadata.CANDIDATES:
        return Signature(_pixels(manifest.vision), _candidates(manifest))
    if kind == metadata.SELECTOR:
        text = {TEXT_EMBEDS: (1, None, spec.hidden)}
        return Signature(_candidates(manifest) | text, _selected(manifest, budget))
    if kind == metadata.VISION_ENCODER:
        return Signature(_pixels(manifest.vision), _selected(manifest, budget))
    if kind == metadata.EMBED_TOKENS:
        return Signature({"input_ids": (None, None)}, {"inputs_embeds": (None, None, spec.hidden)})
    return _decoder(spec, kind)


def _pixels(vision: Vision) -> Shapes:
    return {"pixel_values": (None, 3, *(vision.image_size or (None, None)))}


def _selected(manifest: Manifest, budget: int | None) -> Shapes:
    """What is given of the tokens that are kept."""
    # Of a picture with fewer tokens than the budget all are kept.
    kept = budget if manifest.vision.image_size else None
    features = (None, kept, manifest.decoder.hidden)
    return {
        "image_features": features,
        "kept_indices": (None, kept),
        "kept_scores": (None, kept),
        **dict.fromkeys(manifest.vision.extras, features),
    }


def _candidates(manifest: Manifest) -> dict[str, tuple[int | None, ...]]:
    """What a selector takes some tokens of: a row for every token."""
    tokens = manifest.pruning.tokens_before if manifest.vision.image_size else None
    return dict.fromkeys(manifest.vision.candidates, (None, tokens, manifest.decoder.hidden))


@dataclass(frozen=True)
class CacheTensor:
    """One tensor of a decoder's cache: the ``present`` output of a run is the ``past`` input of the
    next.

    Attributes:
        layer: whose it is.
        past: the input's name.
        present: the output's.
        shape: of both, None for the batch and, where it ``grows``, for the tokens.
        grows: by a row for each token, along axis 2: keys and values. What does not is the state
            of a convolution, (batch, hidden, width), which each run replaces.
    """

    layer: int
    past: str
    present: str
    shape: tuple[int | None, ...]
    grows: bool

    def of(self, length: int) -> tuple[int, ...]:
        """Its shape in one sequence, after so many tokens; before the first it is all zeros."""
        return (1, *(length if size is None else size for size in self.shape[1:]))


def cache_names(layers: Iterable[int]) -> list[str]:
    """``0.key``, ``0.value``, ``1.key``, ... of layers that attend: after ``past_key_values.`` an
    input, after ``present.`` an output."""
    return [f"{layer}.{kind}" for layer in layers for kind in ("key", "value")]


def kept_names(stages: int) -> list[str]:
    """The outputs of a decoder that drops tokens between layers: after each stage the numbers of
    the run's tokens that went on, int64 (batch, tokens), ascending."""
    return [f"{_KEPT_TOKENS}.{stage}" for stage in range(stages)]


class _Layers(Protocol):
    """What a manifest and the exporter state alike of a decoder's layers."""

    @property
    def layers(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def conv_layers(self) -> tuple[int, ...]: ...
    @property
    def conv_width(self) -> int: ...


def cache_tensors(spec: _Layers) -> list[CacheTensor]:
    """The cache of a decoder, layer after layer: key and value of one that attends, the state of
    one that is a convolution, named as onnx-community's exports name them."""
    tensors: list[CacheTensor] = []
    for layer in range(spec.layers):
        if layer in spec.conv_layers:
            state = (None, spec.hidden, spec.conv_width)
            past, present = f"past_conv.{layer}", f"present_conv.{layer}"
            tensors.append(CacheTensor(layer, past, present, state, grows=False))
            continue
        for name in cache_names([layer]):
            tensors.append(
                CacheTensor(
                    layer,
                    f"past_key_values.{name}",
                    f"present.{name}",
                    (None, spec.kv_heads, None, spec.head_dim),
                    grows=True,
                )
            )
    return tensors


def _decoder(spec: DecoderSpec, kind: str) -> Signature:
    cache = cache_tensors(spec)
    staged, scores = kind == metadata.STAGED_DECODER, kind == metadata.SCORING_DECODER
    axes = POSITION_AXES[spec.positions]
    return Signature(
        {
            "inputs_embeds": (None, None, spec.hidden),
            **({} if staged else {"attention_mask": (None, None)}),
            "position_ids": (None, None) if axes == 1 else (axes, None, None),
            **({"picture_ids": (None, None)} if staged or spec.attention != CAUSAL else {}),
            **({"visual_scores": (None, None)} if spec.reads_scores else {}),
            **dict.fromkeys(spec.extras, (None, None, spec.hidden)),
            **{tensor.past: tensor.shape for tensor in cache},
            **({SCORED_ROWS: (None,)} if scores else {}),
        },
        {
            "logits": (None, 1, spec.vocab),
            **(dict.fromkeys(kept_names(len(spec.stages)), (None, None)) if staged else {}),
            **{tensor.present: tensor.shape for tensor in cache},
            **({TOKEN_SCORES: (None, None)} if scores else {}),
        },
    )


def _check(name: str, tensors: Sequence[ort.NodeArg], expected: Shapes) -> None:
    actual = {tensor.name: tensor for tensor in tensors}
    if missing := [tensor for tensor in expected if tensor not in actual]:
        raise ArtifactError(
            f"{name} has no {', '.join(missing)}",
            advice="the graph is not one of ours, export it again",
        )
    for tensor, shape in expected.items():
        sizes, kind = actual[tensor].shape, actual[tensor].type
        # A size that the graph leaves open where the manifest fixes it is refused too: it could be
        # anything.
        if len(sizes) != len(shape) or any(
            want not in (None, have) for want, have in zip(shape, sizes, strict=True)
        ):
            raise ArtifactError(
                f"{name} has {tensor} of shape {_text(sizes)}, the manifest says {_text(shape)}",
                advice="files of two artifacts are mixed, copy or export it again",
            )
        declared = "tensor(int64)" if type_of(tensor) == "int64" else "tensor(float)"
        if kind != declared:
            raise ArtifactError(
                f"{name} has {tensor} of type {kind}",
                expected=declared,
                advice="the graph is not one of ours, export it again",
            )


def _text(shape: tuple[int | None, ...] | list[int | str | None]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
