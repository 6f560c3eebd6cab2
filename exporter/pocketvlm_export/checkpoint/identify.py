"""Knows what a folder holds before anything of it is loaded, and what to do about folders that are
not checkpoints."""

from pathlib import Path

import transformers

from pocketvlm.errors import CheckpointError, library_errors
from pocketvlm_export.checkpoint.allowed import model_config
from pocketvlm_export.checkpoint.files import check_files, read_json
from pocketvlm_export.checkpoint.refused import check_config
from pocketvlm_export.checkpoint.settings import Settings
from pocketvlm_export.checkpoint.source import Source


def read_config(
    source: Source, families: frozenset[str], parts: frozenset[str]
) -> transformers.PretrainedConfig:
    """Return the configuration of a checkpoint, whose weights need not be there yet; no code of it
    is run.

    Args:
        source: of the checkpoint.
        families: the model types that are supported.
        parts: those that its towers and language models may be of.

    Raises:
        PocketVLMError: the folder is an adapter, an original LLaVA checkpoint, no VLM, of no
            supported family, quantized, or lacks tokenizer.json. Each advises the next step.
    """
    folder = source.folder
    check_files(folder)
    _refuse_adapters(folder)
    raw = read_json(folder / "config.json")
    stated = Settings(raw, str(folder / "config.json"))
    _refuse_originals(folder, stated)
    model_type = stated.text("model_type", "")
    if stated.stated("vision_config") is None and model_type not in families:
        raise CheckpointError(
            f"{folder} is a {model_type or 'nameless'} model without vision_config, not a "
            "vision-language model",
            expected=f"one of the families {', '.join(sorted(families))}",
        )
    if model_type not in families:
        raise CheckpointError(
            f"{folder} is a {model_type} model, a family that is not supported",
            expected=f"one of the families {', '.join(sorted(families))}",
        )
    check_config(folder, raw)
    if not (folder / "tokenizer.json").is_file():
        raise _without_tokenizer(source)
    with library_errors(  # whatever its classes meet first in values that nobody has checked
        lambda reason: CheckpointError(
            f"{folder / 'config.json'} cannot be understood ({reason})", advice="fix or replace it"
        )
    ):
        return model_config(folder / "config.json", raw, parts)


def _refuse_adapters(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} is a LoRA adapter, not a whole model",
            advice="merge it into its base model first (peft: model.merge_and_unload(), then "
            "save_pretrained) and give that folder",
        )
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json", advice="give the folder of a Hugging Face checkpoint"
        )


def _refuse_originals(folder: Path, stated: Settings) -> None:
    listed = stated.stated("architectures")
    names = listed if isinstance(listed, list) else []
    original = stated.stated("mm_vision_tower") is not None or any(
        isinstance(name, str) and name.startswith("Llava") and name.endswith("ForCausalLM")
        for name in names
    )
    if original:
        raise CheckpointError(
            f"{folder} is in the original LLaVA format (liuhaotian/llava-*)",
            advice="convert it with transformers' convert_llava_weights_to_hf.py, or take it "
            "converted from the llava-hf organisation on the Hub",
        )


def _without_tokenizer(source: Source) -> CheckpointError:
    place = source.place
    if "tokenizer.model" not in source.files:
        return CheckpointError(
            f"{place} has no tokenizer.json", advice="give a complete checkpoint"
        )
    folder = source.folder.name if not source.on_hub else source.model.rpartition("/")[2]
    first = (
        f"download it (hf download {place} --local-dir {folder}), then " if source.on_hub else ""
    )
    where = folder if source.on_hub else place
    return CheckpointError(
        f"{place} has tokenizer.model but no tokenizer.json",
        advice=f'{first}write it with python -c "from transformers import AutoTokenizer as T; '
        f"T.from_pretrained('{where}').save_pretrained('{where}')\"",
    )
