"""Knows how a decoder's dimensions and constants are written for llama.cpp."""

import gguf

from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.gguf.architectures import architecture, context_length
from pocketvlm_export.gguf.rope import add_rope
from pocketvlm_export.gguf.windows import add_windows


def add_hyper_parameters(writer: gguf.GGUFWriter, spec: DecoderSpec) -> None:
    """Write them; the architecture itself was given to ``writer``."""
    config = spec.config
    writer.add_block_count(spec.layers)
    writer.add_context_length(context_length(spec))
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(spec.vocab)
    add_rope(writer, config, spec.head_dim, sections=architecture(spec).sections)
    if architecture(spec).windows:
        add_windows(writer, config)
