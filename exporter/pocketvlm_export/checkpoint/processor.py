"""Knows the files beside the weights by which pictures and prompts are prepared, as transformers
reads them."""

from pathlib import Path
from typing import Any

import transformers

from pocketvlm.errors import CheckpointError, first_line, library_errors
from pocketvlm.text.tokenizer_files import check_tokenizer
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.quiet import quiet_transformers


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer as transformers builds it from ``folder``, without running any code of the
    checkpoint.

    Raises:
        PocketVLMError: its files cannot be read.
    """
    with library_errors(
        lambda reason: CheckpointError(
            f"{folder / 'tokenizer.json'} cannot be read ({reason})", advice="download it again"
        )
    ):
        if (folder / "tokenizer.json").is_file():
            check_tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
        with quiet_transformers():
            return transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )


def text_ids(
    tokenizer: transformers.PreTrainedTokenizerFast, text: str, *, add_special_tokens: bool = False
) -> list[int]:
    """The ids of a text; raises `CheckpointError` where the checkpoint's tokenizer fails."""
    with library_errors(
        lambda reason: CheckpointError(
            f"the tokenizer cannot read a text ({reason})", advice="download it again"
        )
    ):
        ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
    return ids


def load_image_processor(folder: Path) -> Any:
    """The image processor as transformers builds it from ``folder``, its Pillow backend, without
    running any code of the folder.

    Raises:
        PocketVLMError: its files cannot be read.
    """
    try:
        with quiet_transformers():
            return transformers.AutoImageProcessor.from_pretrained(
                folder, backend="pil", trust_remote_code=False, local_files_only=True
            )
    except (ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
        raise CheckpointError(
            f"the image processor in {folder} cannot be built ({first_line(error)})",
            advice="correct preprocessor_config.json",
        ) from error


def image_processor(source: Path) -> dict[str, Any]:
    """Return the image processor's configuration; transformers 5 nests it inside
    processor_config.json."""
    config = read_json(source / "preprocessor_config.json") or read_json(
        source / "processor_config.json"
    ).get("image_processor")
    if not isinstance(config, dict) or not config:
        raise CheckpointError(
            f"{source} has no preprocessor_config.json", advice="download the whole checkpoint"
        )
    return config
