"""What the last token attends to."""

from pocketvlm_export.verification.decoder_stages.base import Doubles, Read


def score(read: Read) -> Doubles:
    """Its row of each head's map, averaged over heads."""
    row: Doubles = sum(head[-1] for head in read.attention) / len(read.attention)
    return row[read.visual]
