"""Knows which settings transformers' classes declare, and which of them are configurations of their
own."""

from collections.abc import Mapping
from dataclasses import fields

from transformers import CONFIG_MAPPING, GenerationConfig, PretrainedConfig

# What transformers reads of a configuration whose class does not declare it: names of older
# releases, which `__post_init__` takes, and what its models and ours look for without any
# certainty. The names of
# `generation_names` are read in the same way.
_UNDECLARED = frozenset(
    {
        *("model_type", "tie_embedding", "block_ff_dim", "out_indices", "out_features"),
        *("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq"),
        *("partial_rotary_factor", "sliding_window_pattern", "sliding_window", "layer_types"),
        *("head_dim", "attention_chunk_size", "use_bidirectional_attention"),
        *("tie_word_embeddings", "vision_feature_layer"),
    }
)
# A name that is looked up in torch. The exporter computes in float32, whatever it is.
_UNUSED = "dtype"


def config_class(model_type: str) -> type[PretrainedConfig]:
    """Return the configuration class of a model type; raises KeyError for an unknown one."""
    kind: type[PretrainedConfig] = CONFIG_MAPPING[model_type]
    return kind


def declared_settings(kind: type[PretrainedConfig]) -> frozenset[str]:
    """Return the names of the settings that a configuration of this class is made of.

    transformers sets whatever else it is given too, and reads some of it: implementations that are
    repositories, configurations of single layers, backbones. That the classes are dataclasses is
    documented nowhere.
    """
    declared = {field.name for field in fields(kind)} | kind.attribute_map.keys()
    return frozenset(declared | _UNDECLARED | generation_names()) - {_UNUSED}


def parts_of(
    kind: type[PretrainedConfig],
) -> Mapping[str, tuple[str, type[PretrainedConfig] | None]]:
    """Return which settings of a configuration are configurations, with the ``model_type`` that is
    taken where they state none, and their class. It is None where the type decides that: any that
    transformers knows.

    ``sub_configs_defaults`` is documented nowhere.
    """
    return {
        key: (
            each.model_type,
            each.config_class if issubclass(each.config_class, PretrainedConfig) else None,
        )
        for key, each in kind.sub_configs_defaults.items()
    }


def generation_names() -> frozenset[str]:
    """Return the names of all settings of generation; none of them names a file or code."""
    return frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_"))
