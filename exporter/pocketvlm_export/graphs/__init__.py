"""The graphs an artifact is made of; each knows its own sample inputs, dynamic axes and names."""

from pocketvlm_export.graphs.base import BATCH, OPSET, Graph, trace
from pocketvlm_export.graphs.decoder import DecoderGraph
from pocketvlm_export.graphs.embed_tokens import EmbedTokensGraph
from pocketvlm_export.graphs.staged_decoder import StagedDecoderGraph
from pocketvlm_export.graphs.vision_encoder import PrunedVisionEncoder, VisionEncoderGraph

__all__ = [
    "BATCH",
    "OPSET",
    "DecoderGraph",
    "EmbedTokensGraph",
    "Graph",
    "PrunedVisionEncoder",
    "StagedDecoderGraph",
    "VisionEncoderGraph",
    "trace",
]
