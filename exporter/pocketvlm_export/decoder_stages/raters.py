"""Ranking by the attention of those words of the question that are about the picture: SparseVLM's
static form."""

import torch

from pocketvlm_export import upstream
from pocketvlm_export.decoder_stages.base import StageEvidence, StageRanking
from pocketvlm_export.pruning.base import take_exactly


class Raters(StageRanking):
    """A mean over heads and over raters of their attention in the layer before (SparseVLM, arXiv
    2410.04417, with constant numbers of tokens, original positions and nothing merged).

    Raters are chosen once, by embeddings. Each visual token's softmax over its dot products with
    the text after the last picture is averaged over visual tokens. Raters are the text tokens above
    the mean of that. Where none is above it, as of one token alone, all of that text rates.

    The authors drop what layers 2, 6 and 15 give, which is before 3, 7 and 16: with 66, 34 and 20
    tokens for their "64" of 576.
    """

    title = "SparseVLM"
    paper = "[arXiv 2410.04417](https://arxiv.org/abs/2410.04417), without merging"
    keeps = "those that the words of the question that are about the picture attend to most"
    tag = "sparsevlm"

    def prepare(
        self, inputs_embeds: torch.Tensor, picture_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the raters' numbers in the run, int64 (B, R), and their weights, (B, R): R of the
        row that has most, the weights of others 0."""
        tokens = picture_ids.shape[1]
        numbers = torch.arange(tokens, device=picture_ids.device)
        # The last token is always kept, so it counts as text.
        visual = (picture_ids > 0) & (numbers < tokens - 1)
        end = torch.where(visual, numbers, -1).amax(dim=1, keepdim=True)
        text = numbers > end  # (B, S)
        products = torch.matmul(inputs_embeds, inputs_embeds.transpose(1, 2))  # (B, S, S)
        products = products.masked_fill(~text.unsqueeze(1), torch.finfo(products.dtype).min)
        rows = visual.to(products.dtype)
        rows = rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
        values = (products.softmax(dim=-1) * rows.unsqueeze(-1)).sum(
            dim=1
        )  # (B, S), 0 but for text
        mean = values.sum(dim=1, keepdim=True) / text.sum(dim=1, keepdim=True)
        above = text & (values > mean)
        # Numbers, as ONNX Runtime picks no truth values.
        some = above.any(dim=1, keepdim=True)
        raters = torch.where(some, above.to(products.dtype), text.to(products.dtype))  # (B, S)
        count = raters.sum(dim=1).to(torch.int64).amax(dim=0).item()
        upstream.assume(count >= 1)
        upstream.assume(count <= raters.shape[1])
        chosen = take_exactly(raters, count)
        return chosen.indices, chosen.scores / raters.sum(dim=1, keepdim=True)

    def scores(self, evidence: StageEvidence) -> torch.Tensor:
        """See `StageRanking.scores`."""
        raters, weights = evidence.prepared
        before = evidence.tokens.unsqueeze(1) < raters.unsqueeze(2)  # (B, R, n)
        attention = evidence.attention.of(before.sum(dim=2))
        return (attention * weights.unsqueeze(2)).sum(dim=1)
