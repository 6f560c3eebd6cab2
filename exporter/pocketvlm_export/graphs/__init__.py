"""The graphs an artifact is made of; each knows its own sample inputs, dynamic axes and names."""

from pocketvlm_export.graphs.base import BATCH, OPSET, Graph, trace
from pocketvlm_export.graphs.decoder import DecoderGraph
from pocketvlm_export.graphs.embed_tokens import EmbedTokensGraph
from pocketvlm_export.graphs.fastv_decoder import FastVDecoderGraph
from pocketvlm_export.graphs.token_selector import (
    CandidateEncoder,
    CandidatesGraph,
    TokenSelector,
    TokenSelectorGraph,
)
from pocketvlm_export.graphs.vision_encoder import PrunedVisionEncoder, VisionEncoderGraph

__all__ = [
    "BATCH",
    "OPSET",
    "CandidateEncoder",
    "CandidatesGraph",
    "DecoderGraph",
    "EmbedTokensGraph",
    "FastVDecoderGraph",
    "Graph",
    "PrunedVisionEncoder",
    "TokenSelector",
    "TokenSelectorGraph",
    "VisionEncoderGraph",
    "trace",
]
