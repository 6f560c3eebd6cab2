"""Knows what is stored inside graphs: the ONNX ``metadata_props`` that tie one to its artifact, so
that mixed-up files are caught, and the names of nodes that mean something."""

from typing import Final

ARTIFACT_ID: Final = "pocketvlm.artifact_id"
PRUNER: Final = "pocketvlm.pruner"
BUDGET: Final = "pocketvlm.budget"  # k as a decimal; on graphs that select tokens only
FASTV: Final = "pocketvlm.fastv"  # "layer,keep" in decimal; on decoder graphs with FastV only
STAGES: Final = "pocketvlm.stages"  # "layer:keep:by,..."; on graphs that drop tokens on their way
SCHEMA: Final = "pocketvlm.schema_version"
GRAPH: Final = "pocketvlm.graph"  # one of GRAPH_KINDS

VISION_ENCODER: Final = "vision_encoder"
CANDIDATES: Final = "vision_candidates"  # a vision graph that gives every token: of these a
TOKEN_SELECTOR: Final = "token_selector"  # selector takes some once it has read the prompt
EMBED_TOKENS: Final = "embed_tokens"
DECODER: Final = "decoder"
FASTV_DECODER: Final = (
    "decoder_fastv"  # drops visual tokens between two layers: other inputs, caches of two lengths
)
GRAPH_KINDS: Final = (
    VISION_ENCODER,
    CANDIDATES,
    TOKEN_SELECTOR,
    EMBED_TOKENS,
    DECODER,
    FASTV_DECODER,
)

SELECTION: Final = "select/"  # begins the name of every node of a vision graph that selects tokens
