"""Knows how a decoder's dimensions and constants are written for llama.cpp."""

import gguf

from pocketvlm_export.families import DecoderSpec
from pocketvlm_export.gguf.architectures import architecture, context_length
from pocketvlm_export.gguf.rope import add_rope
from pocketvlm_export.gguf.windows import add_windows

_EPSILONS = ("rms_norm_eps", "norm_eps")  # what configurations call it


def add_hyper_parameters(writer: gguf.GGUFWriter, spec: DecoderSpec) -> None:
    """Write them; the architecture itself was given to ``writer``."""
    config = spec.config
    writer.add_block_count(spec.layers)
    writer.add_context_length(context_length(spec))
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if spec.conv_layers:
        # A layer that has none is a convolution there.
        convolutions = set(spec.conv_layers)
        heads = [0 if n in convolutions else spec.kv_heads for n in range(spec.layers)]
        writer.add_head_count_kv(heads)
        writer.add_shortconv_l_cache(spec.conv_width)
    else:
        writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    names = [name for name in _EPSILONS if hasattr(config, name)]
    writer.add_layer_norm_rms_eps(getattr(config, names[0]))
    writer.add_vocab_size(spec.vocab)
    arch = architecture(spec)
    if arch.extras:
        writer.add_num_deepstack_layers(len(spec.extras))
    add_rope(writer, config, spec.head_dim, sections=arch.sections is not None)
    if arch.windows:
        add_windows(writer, config)
