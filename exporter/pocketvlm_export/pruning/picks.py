"""Knows how a run of picks is traced: as one node, which `onnx_passes.UnrollPicks` takes apart.

Picks are alike, so nothing is gained by following each of them. A tracer takes a tenth of a second
for the nodes of one, and a budget has hundreds.
"""

from collections.abc import Callable, Sequence

import torch

DOMAIN = "pocketvlm.picks"
FARTHEST_FIRST = "FarthestFirst"
WIDEST_COVER = "WidestCover"
GREEDY_MAP = "GreedyMap"
COUNT = "count"  # attribute: how many picks


def one_by_one(
    kind: str,
    loop: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor | None],
    count: int,
) -> torch.Tensor:
    """Return what ``loop`` makes of ``inputs`` and ``count``, picks in their order, int64: (B,
    count).

    While an ONNX graph is traced that is a node of the type ``kind`` in `DOMAIN` with the inputs of
    the loop. Its unrolled form is `onnx_passes.UnrollPicks`'s to write.
    """
    if not torch.onnx.is_in_onnx_export():
        return loop(*inputs, count)
    assert inputs[0] is not None
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{kind}",
        inputs,
        {COUNT: count},
        dtype=torch.int64,
        shape=(inputs[0].shape[0], count),
        version=1,
    )
