"""Knows what is stored inside graphs: the ONNX ``metadata_props`` that tie one to its artifact, so
that mixed-up files are caught, and the names of nodes that mean something."""

from typing import Final

ARTIFACT_ID: Final = "pocketvlm.artifact_id"
PRUNER: Final = "pocketvlm.pruner"
BUDGET: Final = "pocketvlm.budget"  # k as a decimal; on vision graphs only
STAGES: Final = "pocketvlm.stages"  # "layer:keep:by,..."; on graphs that drop tokens on their way
SCHEMA: Final = "pocketvlm.schema_version"
GRAPH: Final = "pocketvlm.graph"  # one of GRAPH_KINDS

VISION_ENCODER: Final = "vision_encoder"
EMBED_TOKENS: Final = "embed_tokens"
DECODER: Final = "decoder"
STAGED_DECODER: Final = (
    "decoder_staged"  # drops visual tokens between layers: other inputs, caches of several lengths
)
GRAPH_KINDS: Final = (VISION_ENCODER, EMBED_TOKENS, DECODER, STAGED_DECODER)

SELECTION: Final = "select/"  # begins the name of every node of a vision graph that selects tokens
