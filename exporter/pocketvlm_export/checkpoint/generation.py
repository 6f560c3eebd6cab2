"""Knows a checkpoint's published generation settings: what greedy answers go through, how it
samples, and what no artifact follows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import transformers

from pocketvlm.artifact.specs import Generation
from pocketvlm.cli.described import settings_text
from pocketvlm.decoders.sampling import ALWAYS, DRAWN, NEUTRAL, Sampling, checkpoint_sampling
from pocketvlm.errors import ArtifactError, CheckpointError, first_line
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint import allowed
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.quiet import quiet_transformers

_FILE = "generation_config.json"
# What transformers raises of settings that it does not understand.
_OF_SETTINGS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    OverflowError,
    RuntimeError,  # and RecursionError
)


def generation_settings(
    folder: Path, config: transformers.PretrainedConfig
) -> transformers.GenerationConfig:
    """Return the generation settings of a checkpoint, from where transformers' own models take
    them: the file, or where there is none the model's configuration.

    Raises:
        CheckpointError: transformers refuses them.
    """
    try:
        with quiet_transformers():
            if (folder / _FILE).is_file():
                stated = allowed.generation(read_json(folder / _FILE))
                return transformers.GenerationConfig.from_dict(stated)
            return transformers.GenerationConfig.from_model_config(config)
    except _OF_SETTINGS as error:
        raise _refused(folder, error) from error


def read_generation(folder: Path, config: transformers.PretrainedConfig, vocab: int) -> Generation:
    """Return how a checkpoint was published to answer, as a manifest states it.

    Args:
        folder: its files.
        config: its configuration.
        vocab: the number of its logits.

    Raises:
        CheckpointError: settings that transformers' ``generate`` refuses.
    """
    settings = generation_settings(folder, config)
    stated = {name: each for name, each in settings.to_dict().items() if each is not None}
    try:
        with quiet_transformers():
            # Ids of a prompt do not matter here, nor which id ends an answer.
            upstream.greedy_processors(settings, [0, 0], _NEW_TOKENS, vocab=vocab)
        processors = _converted(stated, PROCESSORS)
        checkpoint_sampling(Generation(processors=processors))
    except _OF_SETTINGS as error:
        raise _refused(folder, error) from error
    except ArtifactError as error:  # what transformers takes and no artifact can have
        raise _refused(folder, error.__cause__ or error) from error
    not_applied = {name: each for name, each in stated.items() if _matters(name, each, stated)}
    sampling = _sampling(stated) if stated.get("do_sample") is True else {}
    try:
        checkpoint_sampling(Generation(sampling=sampling))
    except ArtifactError:  # transformers refuses to sample so; greedy answers are none the worse
        not_applied, sampling = {**not_applied, **sampling}, {}
    return Generation(processors, sampling, not_applied)


def generation_conflicts(folder: Path, config: transformers.PretrainedConfig) -> list[str]:
    """Return a sentence where config.json asks for other generation settings than
    generation_config.json, which is taken whole; arguments and errors as of
    `generation_settings`."""
    if not (folder / _FILE).is_file():
        return []
    taken = generation_settings(folder, config).to_dict()
    differing = [
        name
        for name, value in read_json(folder / "config.json").items()
        if _asks(name, value) and value != taken.get(name)
    ]
    if not differing:
        return []
    return [
        f"{_FILE} and config.json differ in {', '.join(sorted(differing))}; the first is used, as "
        "transformers does"
    ]


def _asks(name: str, value: Any) -> bool:
    """Whether a setting of a model's configuration, where older releases write all of them, asks
    for anything."""
    if name in UNFOLLOWED:
        return value is not None and value not in UNFOLLOWED[name]
    ours = {**PROCESSORS, **WARPERS}.get(name)
    nothing = [] if ours is None else [None, NEUTRAL[ours[0]], _OLD_DEFAULTS.get(name)]
    return ours is not None and value not in nothing


def generation_warnings(generation: Generation) -> list[str]:
    """Return what whoever exports must know: settings that transformers' ``generate`` follows and
    no answer of the artifact does."""
    unfollowed = {name: each for name, each in generation.not_applied.items() if name not in LIMITS}
    if not unfollowed:
        return []
    return [
        f"the checkpoint's generation settings ask for {settings_text(unfollowed)}, which no "
        "answer of the artifact follows"
    ]


def generation_notes(generation: Generation) -> list[str]:
    """Return sentences on how the artifact's answers differ from plain greedy decoding or from the
    checkpoint's published settings; for people, on the terminal and in the card."""
    notes = []
    if generation.processors:
        notes.append(
            f"Answers go through the checkpoint's own {settings_text(generation.processors)}, as "
            "transformers' greedy answers do."
        )
    if generation.sampling:
        notes.append(
            f"The checkpoint was published to sample ({settings_text(generation.sampling)}); "
            "answers here are greedy unless --sampling checkpoint is given."
        )
    limits = {name: each for name, each in generation.not_applied.items() if name in LIMITS}
    if limits:
        notes.append(
            f"Answers have at most {_NEW_TOKENS} tokens unless --max-new-tokens is given; the "
            f"checkpoint states {settings_text(limits)}."
        )
    return notes


def _refused(folder: Path, error: BaseException) -> CheckpointError:
    reason = first_line(error)
    return CheckpointError(
        f"the generation settings of {folder} cannot be used ({reason})",
        advice=f"correct {_FILE}",
    )


def _converted(
    stated: Mapping[str, Any], table: Mapping[str, tuple[str, Callable[[Any], Any]]]
) -> dict[str, Any]:
    """The settings that a table has a name for, without those that change nothing."""
    values = {
        ours: convert(stated[theirs])
        for theirs, (ours, convert) in table.items()
        if theirs in stated
    }
    neutral = {**ALWAYS, **DRAWN}
    # 0 new tokens are something, as a length is then of no effect.
    return {
        name: value
        for name, value in values.items()
        if name == "min_new_tokens" or not _is_neutral(value, neutral[name])
    }


def _is_neutral(value: Any, neutral: Any) -> bool:
    return value is None or value == neutral or (isinstance(neutral, tuple) and not value)


def _sampling(stated: Mapping[str, Any]) -> dict[str, Any]:
    """How a checkpoint that samples does, transformers' own defaults filled in."""
    return {
        "temperature": stated.get("temperature", 1.0),
        **_converted({"top_k": _TOP_K, **stated}, WARPERS),
    }


def _matters(name: str, value: Any, stated: Mapping[str, Any]) -> bool:
    """Whether a setting that no artifact has would change an answer of transformers."""
    if name in PROCESSORS or name in WARPERS or name in IGNORED:
        return False
    if name in LIMITS:  # of the two one counts
        counts = name == "max_new_tokens" or "max_new_tokens" not in stated
        return counts and value != _NEW_TOKENS
    if name in SAMPLED:
        return stated.get("do_sample") is True and value not in SAMPLED[name]
    if name in UNFOLLOWED:
        return value not in UNFOLLOWED[name]
    return False  # transformers does not know it either


def _same(value: Any) -> Any:
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (int, str)) else list(value)


def _valid_ids(value: Any) -> Any:
    """Without those below 0, which transformers' processors never meet."""
    return [token for token in _listed(value) if not isinstance(token, int) or token >= 0]


def _pairs(value: Any) -> Any:
    return [
        [list(ids), bias] for ids, bias in (value.items() if isinstance(value, dict) else value)
    ]


_NEW_TOKENS = Sampling.max_new_tokens
_TOP_K = 50  # where a checkpoint that samples states none, in transformers
_OLD_DEFAULTS = {"top_k": _TOP_K, "temperature": 1.0}
LIMITS = ("max_new_tokens", "max_length")
# transformers' names: ours, and how the value is written.
PROCESSORS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **{
        name: (name, _same)
        for name in (
            "min_new_tokens",
            "min_length",
            "repetition_penalty",
            "no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "encoder_no_repeat_ngram_size",
            "exponential_decay_length_penalty",
            "remove_invalid_values",
            "bad_words_ids",
        )
    },
    "suppress_tokens": ("suppress_tokens", _valid_ids),
    "begin_suppress_tokens": ("begin_suppress_tokens", _valid_ids),
    "forced_eos_token_id": ("forced_eos_token_id", _listed),
    "sequence_bias": ("sequence_bias", _pairs),
    "stop_strings": ("stop", _listed),
}
WARPERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": ("temperature", _same),
    "top_k": ("top_k", lambda value: value or None),
    "top_p": ("top_p", lambda value: value or 2.0**-1000),  # 0 keeps one token
    "min_p": ("min_p", _same),
    "typical_p": ("typical_p", _same),
}
# What changes an answer, and the values with which it does not.
UNFOLLOWED: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "watermarking_config": (),
    "token_healing": (False,),
    "max_time": (),
    "assistant_ensemble_weight": (),
}
# The same of answers that are sampled.
SAMPLED: Mapping[str, tuple[Any, ...]] = {
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
# What changes no greedy answer of one beam.
IGNORED = frozenset(
    {
        # Read elsewhere: whether it samples, and what ends an answer.
        "do_sample",
        "eos_token_id",
        # Padding, and the beginning of what an encoder-decoder writes.
        "pad_token_id",
        "bos_token_id",
        "decoder_start_token_id",
        # Forces the second token of all, prompt included. No chat prompt is one token long.
        "forced_bos_token_id",
        # Log-softmax keeps the order, and the distribution.
        "renormalize_logits",
        # Of several beams.
        "early_stopping",
        "length_penalty",
        "diversity_penalty",
        "num_beam_groups",
        "low_memory",
        # How keys and values are kept, and how fast tokens come.
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "prefill_chunk_size",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        # Guessing ahead, which gives the same tokens.
        "use_mtp",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "speculation_type",
        # What else is returned.
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        # Who wrote it.
        "transformers_version",
    }
)
