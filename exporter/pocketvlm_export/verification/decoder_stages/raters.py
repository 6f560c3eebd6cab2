"""What the raters among the question's words attend to."""

import numpy as np

from pocketvlm_export.verification.decoder_stages.base import Doubles, Read


def score(read: Read) -> Doubles:
    """Word by word: whether it rates, by its share of each visual token, and what it attends to."""
    words = list(range(read.visual[-1] + 1, len(read.embeds)))
    shares = np.zeros(len(words))
    for token in read.visual:
        products = np.array([read.embeds[token] @ read.embeds[word] for word in words])
        exponentials = np.exp(products - products.max())
        shares += exponentials / exponentials.sum() / len(read.visual)
    raters = [word for word, share in zip(words, shares, strict=True) if share > shares.mean()]
    rows = [read.attention[:, word].mean(axis=0) for word in raters or words]
    total: Doubles = np.sum(rows, axis=0) / len(rows)
    return total[read.visual]
