"""Knows how to tell what a folder holds before anything of it is loaded, and what to advise about
the rest."""

from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError

from pocketvlm import PocketVLMError
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.source import Source

_CONVERTED = (
    "the llava-hf organisation on the Hub publishes these checkpoints converted for transformers"
)


def read_config(source: Source, families: frozenset[str]) -> transformers.PretrainedConfig:
    """Return the configuration of a checkpoint, whose weights need not be there yet; no code of it
    is run.

    Raises:
        PocketVLMError: the folder is an adapter, an original LLaVA checkpoint, no VLM, of no
            supported family, quantized, or lacks tokenizer.json; each says the next step.
    """
    folder = source.folder
    _refuse_adapters(folder)
    raw = read_json(folder / "config.json")
    _refuse_originals(folder, raw)
    model_type = raw.get("model_type")
    if "vision_config" not in raw and model_type not in families:
        raise PocketVLMError(
            f"{folder} is a {model_type or 'nameless'} model without vision_config, not a "
            f"vision-language model: "
            f"families that can be exported: {', '.join(sorted(families))}"
        )
    if model_type not in families:
        raise PocketVLMError(
            f"{folder} is a {model_type} model, a family that is not supported: use "
            f"{', '.join(sorted(families))}"
        )
    if "quantization_config" in raw:
        raise PocketVLMError(
            f"{folder} is already quantized: give the float16, bfloat16 or float32 checkpoint"
        )
    if not (folder / "tokenizer.json").is_file():
        raise PocketVLMError(_tokenizer_advice(source))
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OSError,
        StrictDataclassError,
    ) as error:
        # transformers validates strictly and raises whichever of these its dataclasses meet first.
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise PocketVLMError(
            f"{folder / 'config.json'} cannot be understood ({reason}): fix or replace it"
        ) from error


def _refuse_adapters(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise PocketVLMError(
            f"{folder} is a LoRA adapter, not a whole model: merge it into its base model first "
            "(peft: model.merge_and_unload(), then save_pretrained) and give that folder"
        )
    if not (folder / "config.json").is_file():
        raise PocketVLMError(
            f"{folder} has no config.json: give the folder of a Hugging Face checkpoint"
        )


def _refuse_originals(folder: Path, raw: dict[str, Any]) -> None:
    names = raw.get("architectures") or []
    original = "mm_vision_tower" in raw or any(
        isinstance(name, str) and name.startswith("Llava") and name.endswith("ForCausalLM")
        for name in names
    )
    if original:
        raise PocketVLMError(
            f"{folder} is in the original LLaVA format (liuhaotian/llava-*): convert it with "
            f"transformers' "
            f"convert_llava_weights_to_hf.py, or take it ready-made: {_CONVERTED}"
        )


def _tokenizer_advice(source: Source) -> str:
    place = source.place
    if "tokenizer.model" not in source.files:
        return f"{place} has no tokenizer.json: give a complete checkpoint"
    folder = source.folder.name if not source.on_hub else source.model.rpartition("/")[2]
    first = (
        f"download it (hf download {place} --local-dir {folder}), then " if source.on_hub else ""
    )
    where = folder if source.on_hub else place
    return (
        f"{place} has tokenizer.model but no tokenizer.json: {first}write it with "
        f'python -c "from transformers import AutoTokenizer as T; '
        f"T.from_pretrained('{where}').save_pretrained('{where}')\""
    )
