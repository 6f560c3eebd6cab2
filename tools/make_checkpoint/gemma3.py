"""Knows the files of google/gemma-3-4b-it: a nested ``config.json``, a template in JSON, and a
tokenizer in which runs of line breaks are tokens of their own."""

from collections.abc import Mapping

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from make_checkpoint.hub import HubFamily, HubPreset, Json, added_tokens
from make_checkpoint.text import CORPUS, begin_with

# chat_template.json.
TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
# preprocessor_config.json, beside the size. What is null is not asked for.
PICTURES: Json = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pan_and_scan": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Gemma3ImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "pan_and_scan_max_num_crops": None,
    "pan_and_scan_min_crop_size": None,
    "pan_and_scan_min_ratio_to_activate": None,
    "processor_class": "Gemma3Processor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
}
GENERATION: Json = {
    "cache_implementation": "hybrid",
    "do_sample": True,
    "top_k": 64,
    "top_p": 0.95,
    "transformers_version": "4.50.0.dev0",
}
MODEL: Json = {"initializer_range": 0.02, "transformers_version": "4.50.0.dev0"}
# Ids 0 to 106 of the published vocabulary, in this order. What follows are runs of line breaks, 31
# of them there, then of spaces, tags of HTML and the bytes.
_FIRST = (
    *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]"),
    *(f"<unused{number}>" for number in range(99)),
    *("<start_of_turn>", "<end_of_turn>"),
)
_BREAKS = tuple("\n" * count for count in range(1, 9))
_BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
_PIECES = 500  # ids up to the end of what is learnt
# 255999 and 256000, and 262144 behind the vocabulary that was learnt.
_IMAGE = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_NAMED = {"boi_token": _IMAGE[0], "eoi_token": _IMAGE[1], "image_token": _IMAGE[2]}


def _tokenizer(preset: HubPreset) -> Tokenizer:
    """Learn a BPE of characters whose rest are bytes, in SentencePiece's form."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "\u2581")
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_PIECES, special_tokens=[*_FIRST, *_BREAKS, *_BYTES], show_progress=False
    )
    core.train_from_iterator([f" {text}" for text in CORPUS], trainer)
    core.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*_FIRST, *_IMAGE)]
    )
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in _BREAKS])
    begin_with(core, "<bos>")
    return core


def _files(preset: HubPreset, tokenizer: Tokenizer, dtype: str) -> Mapping[str, Json | str]:
    names = ("pad", "eos", "bos")
    pad, eos, bos, end_of_turn = (
        tokenizer.token_to_id(token) for token in (*(f"<{name}>" for name in names), _FIRST[-1])
    )
    begin, end, image = (tokenizer.token_to_id(token) for token in _IMAGE)
    tokens = preset.model["mm_tokens_per_image"]
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": begin,
        "eoi_token_index": end,
        "eos_token_id": [eos, end_of_turn],
        "image_token_index": image,
        "model_type": "gemma3",
        **preset.model,
        "text_config": dict(preset.text),
        "torch_dtype": dtype,
        "vision_config": dict(preset.vision),
    }
    ids = {"bos_token_id": bos, "eos_token_id": [eos, end_of_turn], "pad_token_id": pad}
    return {
        "config.json": config,
        "generation_config.json": {**ids, **preset.generation},
        "preprocessor_config.json": {**preset.pictures, "image_seq_length": tokens},
        "processor_config.json": {
            "image_seq_length": tokens,
            "processor_class": "Gemma3Processor",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
        "special_tokens_map.json": {**_NAMED, **{f"{name}_token": f"<{name}>" for name in names}},
        "tokenizer_config.json": _tokenizer_config(tokenizer),
    }


def _tokenizer_config(tokenizer: Tokenizer) -> Json:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": added_tokens(tokenizer),
        **_NAMED,
        "bos_token": "<bos>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "extra_special_tokens": dict(_NAMED),
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<pad>",
        "processor_class": "Gemma3Processor",
        "sp_model_kwargs": None,
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


GEMMA3 = HubFamily(_tokenizer, _files, layout="classic")
