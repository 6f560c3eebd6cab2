"""FlowCut (arXiv 2505.19536): a layer's score, and half of it to half of what came before."""

from collections.abc import Sequence

import numpy as np

from pocketvlm_export.verification.tower_stages.base import Choice, Doubles, Layer, best


def choose(layers: Sequence[Layer], keep: int) -> Choice:
    """By the scores of all layers so far; FlowCut's own number of tokens is not asked for."""
    return best(carried(layers), keep)


def carried(layers: Sequence[Layer]) -> Doubles:
    """Return what the layers' scores add up to, (n,) of those that are left; each layer's are of
    all that were there."""
    places, total = layers[0].places, score(layers[0])
    for layer in layers[1:]:
        total = total[np.isin(places, layer.places)] / 2 + score(layer) / 2
        places = layer.places
    return total


def score(layer: Layer) -> Doubles:
    """Return (c / sum c + s / sum s) |mean of v|_1 of one layer, (n,)."""
    cls_row = layer.by_token(layer.maps[:, 0, 1:].mean(axis=0, dtype=np.float64))
    values = np.stack([layer.by_token(head[1:]) for head in layer.values])  # (heads, n, d)
    products = np.einsum("hnd,hd->hn", values, layer.values[:, 0].astype(np.float64))
    shares = np.exp(products - products.max(axis=1, keepdims=True))
    similar = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    size = np.abs(values.mean(axis=0)).sum(axis=1)
    scores: Doubles = (cls_row / cls_row.sum() + similar / similar.sum()) * size
    return scores
