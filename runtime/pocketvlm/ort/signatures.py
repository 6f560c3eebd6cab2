"""Knows which inputs and outputs each kind of graph has, and which of their sizes the manifest
fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnxruntime as ort

from pocketvlm.artifact import Manifest, metadata
from pocketvlm.artifact.manifest import CAUSAL, POSITION_AXES, DecoderSpec
from pocketvlm.errors import ArtifactError

Shapes = Mapping[
    str, tuple[int | None, ...]
]  # by tensor name; None is an axis that may have any size


# All others are float32.
_INT64 = frozenset(
    {
        "input_ids",
        "attention_mask",
        "position_ids",
        "picture_ids",
        "kept_indices",
        "kept_tokens",
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


def signature(manifest: Manifest, kind: str, budget: int | None = None) -> Signature:
    """What a graph of this kind, one of `metadata.GRAPH_KINDS`, has; vision graphs keep ``budget``
    tokens."""
    spec = manifest.decoder
    if kind == metadata.VISION_ENCODER:
        vision = manifest.vision
        # Of a picture with fewer tokens than the budget all are kept.
        kept = budget if vision.image_size else None
        features = (None, kept, spec.hidden)
        return Signature(
            {"pixel_values": (None, 3, *(vision.image_size or (None, None)))},
            {
                "image_features": features,
                "kept_indices": (None, kept),
                "kept_scores": (None, kept),
                **dict.fromkeys(vision.extras, features),
            },
        )
    if kind == metadata.EMBED_TOKENS:
        return Signature({"input_ids": (None, None)}, {"inputs_embeds": (None, None, spec.hidden)})
    return _decoder(spec, kind)


def cache_names(layers: int) -> list[str]:
    """``0.key``, ``0.value``, ``1.key``, ...: after ``past_key_values.`` an input, after
    ``present.`` an output."""
    return [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]


def _decoder(spec: DecoderSpec, kind: str) -> Signature:
    cache = (None, spec.kv_heads, None, spec.head_dim)
    names = cache_names(spec.layers)
    fastv = kind == metadata.FASTV_DECODER
    axes = POSITION_AXES[spec.positions]
    return Signature(
        {
            "inputs_embeds": (None, None, spec.hidden),
            **({} if fastv else {"attention_mask": (None, None)}),
            "position_ids": (None, None) if axes == 1 else (axes, None, None),
            **({"picture_ids": (None, None)} if fastv or spec.attention != CAUSAL else {}),
            **dict.fromkeys(spec.extras, (None, None, spec.hidden)),
            **{f"past_key_values.{name}": cache for name in names},
        },
        {
            "logits": (None, 1, spec.vocab),
            **({"kept_tokens": (None, None)} if fastv else {}),
            **{f"present.{name}": cache for name in names},
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
        declared = "tensor(int64)" if tensor in _INT64 else "tensor(float)"
        if kind != declared:
            raise ArtifactError(
                f"{name} has {tensor} of type {kind}",
                expected=declared,
                advice="the graph is not one of ours, export it again",
            )


def _text(shape: tuple[int | None, ...] | list[int | str | None]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
