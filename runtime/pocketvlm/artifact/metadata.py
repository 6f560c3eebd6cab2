"""Knows the ONNX ``metadata_props`` that tie a graph to its artifact, so that mixed-up files are caught."""

from typing import Final

ARTIFACT_ID: Final = "pocketvlm.artifact_id"
PRUNER: Final = "pocketvlm.pruner"
BUDGET: Final = "pocketvlm.budget"  # k as a decimal; on vision graphs only
SCHEMA: Final = "pocketvlm.schema_version"
GRAPH: Final = "pocketvlm.graph"  # one of GRAPH_KINDS

VISION_ENCODER: Final = "vision_encoder"
EMBED_TOKENS: Final = "embed_tokens"
DECODER: Final = "decoder"
GRAPH_KINDS: Final = (VISION_ENCODER, EMBED_TOKENS, DECODER)
