"""No ranking: from a layer on the decoder reads no visual token at all."""

from pocketvlm_export.decoder_stages.base import StageRanking


class Exit(StageRanking):
    """All visual tokens leave before a fixed layer (DyVTE, arXiv 2411.19628, without the gates that
    it trains to choose the layer)."""

    title = "a fixed exit"
    paper = "after [arXiv 2411.19628](https://arxiv.org/abs/2411.19628), which chooses the layer"
    keeps = "as all of them have left"
    tag = "visual-exit"
    ranks = False
