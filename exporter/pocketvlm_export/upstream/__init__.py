"""Knows every private or experimental API of other libraries that the exporter relies on.

A release that changes one of them breaks this package and its tests, and nothing else. Each entry
states what it is, why the public API does not do, and the versions that it was tried with. What
counts as private here: names with an underscore, modules that a library's documentation does not
list, arguments that it calls internal, and functions that it calls experimental.

Tried with torch 2.13, transformers 5.23, onnxruntime 1.31, onnxscript 0.7 and huggingface_hub 2.4,
unless an entry says otherwise. Everything that is slow to import is imported inside
the function that needs it.
"""

from huggingface_hub.errors import HTTPError as HubTransportError

from pocketvlm_export.upstream.configurations import (
    config_class,
    declared_settings,
    generation_names,
    parts_of,
)
from pocketvlm_export.upstream.decoding import (
    cache_of,
    cached_layers,
    greedy_processors,
    rope_frequencies,
    run_decoder_layer,
)
from pocketvlm_export.upstream.loading import (
    Listener,
    fill,
    model_class,
    reads_tokenizer_json,
    recorded_attention,
    recording_attention,
)
from pocketvlm_export.upstream.ort_tools import (
    convert_to_ort,
    fuse_norms,
    fuse_skip_norms,
    int8_range,
    quantize_4bit,
    quantize_int8,
    write_required_operators,
)
from pocketvlm_export.upstream.pictures import (
    image_prompt,
    pack_image_features,
    pack_onevision_features,
    picture_masks,
    picture_settings,
    rope_positions,
    stretched_positions,
    tile_grid,
    window_order,
)
from pocketvlm_export.upstream.tracing import TRACER_LOGGER, assume, quick_tracing

__all__ = [
    "TRACER_LOGGER",
    "HubTransportError",
    "Listener",
    "assume",
    "cache_of",
    "cached_layers",
    "config_class",
    "convert_to_ort",
    "declared_settings",
    "fill",
    "fuse_norms",
    "fuse_skip_norms",
    "generation_names",
    "greedy_processors",
    "image_prompt",
    "int8_range",
    "model_class",
    "pack_image_features",
    "pack_onevision_features",
    "parts_of",
    "picture_masks",
    "picture_settings",
    "quantize_4bit",
    "quantize_int8",
    "quick_tracing",
    "reads_tokenizer_json",
    "recorded_attention",
    "recording_attention",
    "rope_frequencies",
    "rope_positions",
    "run_decoder_layer",
    "stretched_positions",
    "tile_grid",
    "window_order",
    "write_required_operators",
]

# Where what is imported from elsewhere comes from, and why:
#
# - ``HubTransportError`` is the HTTP client's base class of timeouts and broken transfers. The
#   client changed from requests to httpx to httpx2; huggingface_hub.errors always has its class.
# - ``LinearAttentionLayer`` is how a layer with a convolution is cached; see `cache_of`.
