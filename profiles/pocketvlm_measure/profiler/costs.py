"""Knows what a prompt costs by the formulas of the papers: FLOPs and cache bytes. Nothing is
measured here.

``n`` is a number of tokens, ``d`` the model's width, ``m`` the width of its MLP's hidden layer, of
``layers`` layers. No formula counts the output head, norms, the softmax, or that attention is
causal. The papers count visual tokens only as ``n``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pocketvlm.artifact import Manifest
from pocketvlm.artifact.specs import DecoderSpec, Tower
from pocketvlm.artifact.stages import Stage


def macs_of_mlp_with_two_matrices(n: float, d: int, m: int) -> float:
    """Multiply-adds of one layer, 4nd^2 + 2n^2d + 2ndm: arXiv 2403.06764 and DivPrune; a
    ViT's layer too."""
    return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m


def macs_of_mlp_with_three_matrices(n: float, d: int, m: int) -> float:
    """Multiply-adds of one layer, 4nd^2 + 2n^2d + 3ndm: SparseVLM's counter, right for a gated MLP
    as in Llama."""
    return 4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m


def macs_of_grouped_queries(
    n: float, d: int, m: int, heads: int, kv_heads: int, head_dim: int
) -> float:
    """Multiply-adds of one layer with a gated MLP and ``kv_heads`` key-value heads for ``heads``
    query heads."""
    projections = n * d * (2 * heads * head_dim + 2 * kv_heads * head_dim)
    return projections + 2 * n**2 * heads * head_dim + 3 * n * d * m


def macs_of_convolution(n: float, d: int, m: int, kernel: int) -> float:
    """Multiply-adds of one layer with a gated MLP that is a short convolution along the sequence
    instead of attention (LFM2): d to 3d, a kernel for each channel, two products, d to d."""
    return n * d * (4 * d + kernel + 2) + 3 * n * d * m


def prefill_flops(n: float, d: int, m: int, layers: int) -> float:
    """Floating-point operations of a prefill as in FasterVLM's and CDPruner's tables: two for each
    multiply-add."""
    return 2 * layers * macs_of_mlp_with_three_matrices(n, d, m)


def tower_flops(n: float, d: int, m: int, layers: int) -> float:
    """Floating-point operations of a ViT over one picture or tile of n tokens, [CLS] counted, as
    FasterVLM adds it."""
    return 2 * layers * macs_of_mlp_with_two_matrices(n, d, m)


def flops_of_tower(tower: Tower, n: float) -> float:
    """`tower_flops` of a tower as its artifact states it: its MLP may be gated, and some layers may
    attend within windows, for which a patch meets ``window`` others instead of n.

    The edges of a picture may leave windows partly empty, which is not counted.
    """
    layer = macs_of_mlp_with_two_matrices(n, tower.hidden, tower.intermediate)
    layer += (tower.mlp_matrices - 2) * n * tower.hidden * tower.intermediate
    saved = 2 * n * max(0.0, n - tower.window) * tower.hidden  # by a layer with windows
    return 2 * (tower.layers * layer - tower.windowed_layers * saved)


def flops_of_staged_tower(tower: Tower, tokens: int, stages: Sequence[Stage]) -> float:
    """`flops_of_tower` of a tower that drops tokens before some of its layers, over one tile of so
    many ``tokens``.

    A layer that tokens are ranked in is counted as if it were computed for all of them, and what
    the ranking costs is not counted.
    """
    patches = tower.sequence // tokens  # of a token
    beside = tower.sequence - patches * tokens  # [CLS], which is always kept
    firsts = [0, *(stage.layer for stage in stages), tower.layers]
    kept = [tokens, *(stage.keep for stage in stages)]
    return sum(
        flops_of_tower(replace(tower, layers=stop - start), patches * n + beside)
        for (start, stop), n in zip(itertools.pairwise(firsts), kept, strict=True)
    )


def cache_bytes(n: int, layers: int, kv_heads: int, head_dim: int, value_bytes: int) -> int:
    """Bytes of keys and values of n tokens."""
    return 2 * layers * kv_heads * head_dim * value_bytes * n


@dataclass(frozen=True)
class Costs:
    """What one question costs by formula; None where the artifact does not state the widths for
    it.

    Attributes:
        flops: of the prefill of the visual tokens alone, `prefill_flops`: the papers' figure.
        flops_prompt: of the prefill of the whole prompt with grouped queries as this decoder has
            them.
        flops_vision: of the vision tower over all tiles of all pictures, each of its own size,
            with what its stages drop, before any pruning inside its last layer.
        kv_bytes: of the visual tokens' keys and values, in the type that the engine keeps them in.
        kv_bytes_prompt: of the whole prompt's.
    """

    flops: float | None
    flops_prompt: float | None
    flops_vision: float | None
    kv_bytes: int
    kv_bytes_prompt: int

    @property
    def flops_first_token(self) -> float | None:
        """Of the tower and the prefill together; None where one of them is."""
        if self.flops_prompt is None or self.flops_vision is None:
            return None
        return self.flops_prompt + self.flops_vision


def costs_of(
    manifest: Manifest,
    *,
    tiles: Sequence[int],
    visual: int,
    prompt: int,
    value_bytes: int,
    dropped: Sequence[int] = (),
) -> Costs:
    """The `Costs` of a prompt of ``prompt`` tokens, ``visual`` of them visual tokens.

    ``tiles`` has the tokens of each tile of all pictures before pruning: with dynamic resolution
    they follow from the picture. ``dropped`` are the visual tokens that layers from each of
    ``decoder.stages`` on do not read; empty for none.
    """
    decoder = manifest.decoder
    visual_layers = _by_layer(decoder, visual, dropped)
    prompt_layers = _by_layer(decoder, prompt, dropped)
    return Costs(
        flops=_papers_flops(decoder, visual_layers),
        flops_prompt=_decoder_flops(decoder, prompt_layers),
        flops_vision=_vision_flops(manifest, tiles),
        kv_bytes=_kv_bytes(decoder, visual_layers, value_bytes),
        kv_bytes_prompt=_kv_bytes(decoder, prompt_layers, value_bytes),
    )


def _kv_bytes(decoder: DecoderSpec, by_layer: Sequence[tuple[int, int]], value_bytes: int) -> int:
    """Of keys and values alone: what convolutions hold does not grow with the tokens."""
    size = (decoder.kv_heads, decoder.head_dim, value_bytes)
    every = sum(cache_bytes(n, layers, *size) for layers, n in by_layer)
    return every * len(decoder.attention_layers) // decoder.layers


def _by_layer(decoder: DecoderSpec, n: int, dropped: Sequence[int]) -> list[tuple[int, int]]:
    """(number of layers, tokens that each of them reads), of n tokens of which some are dropped on
    the way."""
    left = [n, *(n - count for count in dropped or [0] * len(decoder.stages))]
    return [(len(layers), tokens) for layers, tokens in zip(decoder.segments, left, strict=True)]


def _papers_flops(decoder: DecoderSpec, by_layer: Sequence[tuple[int, int]]) -> float | None:
    if decoder.intermediate is None:
        return None
    width = (decoder.hidden, decoder.intermediate)
    return sum(prefill_flops(n, *width, layers) for layers, n in by_layer)


def _decoder_flops(decoder: DecoderSpec, by_layer: Sequence[tuple[int, int]]) -> float | None:
    if decoder.intermediate is None or decoder.heads is None:
        return None
    width = (
        decoder.hidden,
        decoder.intermediate,
        decoder.heads,
        decoder.kv_heads,
        decoder.head_dim,
    )
    if not decoder.conv_layers:
        return sum(2 * layers * macs_of_grouped_queries(n, *width) for layers, n in by_layer)
    ((_, n), *_) = by_layer  # nothing is dropped on the way there
    kernel = (decoder.hidden, decoder.intermediate, decoder.conv_width)
    attending = len(decoder.attention_layers) * macs_of_grouped_queries(n, *width)
    return 2 * (attending + len(decoder.conv_layers) * macs_of_convolution(n, *kernel))


def _vision_flops(manifest: Manifest, tiles: Sequence[int]) -> float | None:
    tower, largest = manifest.vision.tower, manifest.pruning.tokens_before
    if tower is None:
        return None
    stages = manifest.vision.stages
    if not stages:
        return sum(flops_of_tower(tower, tower.sequence * tokens / largest) for tokens in tiles)
    return len(tiles) * flops_of_staged_tower(tower, largest, stages)
