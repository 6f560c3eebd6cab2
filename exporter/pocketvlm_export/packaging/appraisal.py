"""Knows which picture and prompt settings of a checkpoint the runtime can follow, before anything
is built."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedTokenizerFast

from pocketvlm.errors import CheckpointError, PocketVLMError
from pocketvlm.layouts import make_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from pocketvlm_export.checkpoint import image_processor, special_tokens, text_ids
from pocketvlm_export.checkpoint.settings import brief
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import Checkpoint
from pocketvlm_export.options import GATE_PROMPT
from pocketvlm_export.packaging.manifest import eos_token_ids
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.quiet import quiet_transformers

_TIDIED = "yes , it is n't red . is it ? no !"  # where transformers may drop spaces
_SHAPES = ((64, 48), (48, 64))  # (width, height): wide and tall


def check_device_settings(plan: ExportPlan) -> None:
    """Refuse a checkpoint whose pictures or prompts an artifact could not prepare as transformers
    does.

    Raises:
        CheckpointError: image processor, tokenizer, chat template or special ids are missing,
            damaged or not supported.
    """
    eos_token_ids(plan.checkpoint)
    for each in (plan, *plan.beside.values()):
        _check_pictures(each)
        _check_image_token(each.checkpoint)
        _check_prompt(each.checkpoint)
    _check_alike(plan)


def _check_alike(plan: ExportPlan) -> None:
    """Refuse pictures and clips that are not prepared alike: an artifact has one file for both."""
    source = plan.checkpoint.source.folder
    own = make_layout(setting(plan.spec, plan.layout), _processor_config(plan)).steps
    for other in plan.beside.values():
        if make_layout(setting(other.spec, other.layout), _processor_config(other)).steps != own:
            raise CheckpointError(
                f"{source} prepares pictures and clips differently",
                expected="one set of steps for both",
                advice=f"export one of them, by --media {plan.spec.family.medium}",
            )


def _processor_config(plan: ExportPlan) -> dict[str, Any]:
    family, source = plan.spec.family, plan.checkpoint.source.folder
    pictures = image_processor(source, family.medium)
    return family.image_processor_config(pictures, plan.spec, plan.layout)


def _check_pictures(plan: ExportPlan) -> None:
    source, size = plan.checkpoint.source.folder, plan.spec.vision.image_size
    config = _processor_config(plan)
    with _advising(source, "the image processor"):
        layout = make_layout(setting(plan.spec, plan.layout), config)
    for shape in (
        _SHAPES if size is not None else ()
    ):  # without a crop the size may depend on the picture
        picture = Image.new("RGB", shape)
        tiles = layout.views([picture] if layout.medium == "video" else picture)
        height, width = tiles[0].shape[:2]
        if size is not None and (height, width) != size:
            raise CheckpointError(
                f"the image processor of {source} makes {width}x{height} pixels of a picture of "
                f"{shape[0]}x{shape[1]}",
                expected=f"{size[1]}x{size[0]}, which the vision graph reads",
                advice="set do_center_crop, or size to a height and a width",
            )


def _check_image_token(checkpoint: Checkpoint) -> None:
    token, vocab = checkpoint.spec.image_token_id, checkpoint.spec.decoder.vocab
    if not 0 <= token < vocab:
        raise CheckpointError(
            f"{checkpoint.source.folder} has image_token_index {token}, outside its vocabulary of "
            f"{vocab}",
            advice="resize the embedding and save the checkpoint again",
        )
    folder = checkpoint.source.folder
    tokenizer = checkpoint.family.tokenizer(folder)
    written = checkpoint.family.picture_token(tokenizer, folder)
    ids = text_ids(tokenizer, written)
    if ids != [token]:
        raise CheckpointError(
            f"the processor in {folder} writes {written!r} in a picture's place, which is "
            f"{brief(ids)} in its tokenizer and not the image token {token} of config.json",
            advice="give the tokenizer of this model, with its added tokens",
        )


def _check_prompt(checkpoint: Checkpoint) -> None:
    """Ask about one picture, as the parity gate will."""
    source = checkpoint.source.folder
    tokenizer = checkpoint.family.tokenizer(source)
    special = special_tokens(tokenizer)
    template = checkpoint.family.chat_template(source)
    with _advising(source, "the prompt"):
        prompter = Prompter(
            tokenizer.backend_tokenizer,
            ChatTemplate(template, special),
            checkpoint.spec.image_token_id,
            special.get("bos_token"),
            checkpoint.family.medium,
            checkpoint.spec.picture_text,
        )
        ids = prompter.encode(GATE_PROMPT, pictures=1)
    _check_text(tokenizer, source)
    if ids.max() >= checkpoint.spec.decoder.vocab:
        raise CheckpointError(
            f"the tokenizer in {source} gives token {ids.max()}, the vocabulary ends at "
            f"{checkpoint.spec.decoder.vocab - 1} (tokenizer and weights belong to two models)",
            advice="give the tokenizer of this model",
        )


def _check_text(tokenizer: PreTrainedTokenizerFast, source: Path) -> None:
    """Refuse a tokenizer whose text transformers changes once more, as it tidies spaces."""
    ids = tokenizer.encode(_TIDIED, add_special_tokens=False)
    with quiet_transformers():
        theirs = tokenizer.decode(ids, skip_special_tokens=True)
    ours = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
    if ours != theirs:
        raise CheckpointError(
            f"transformers tidies what the tokenizer in {source} decodes ({theirs!r} of {ours!r}), "
            "and an artifact does not",
            advice="set clean_up_tokenization_spaces to false in tokenizer_config.json",
        )


@contextmanager
def _advising(source: Path, what: str) -> Iterator[None]:
    """Name the checkpoint that the runtime refuses; its advice, to export again, is of no use
    here."""
    try:
        yield
    except PocketVLMError as error:
        raise CheckpointError(
            f"{what} of {source} cannot be used ({error.reason})",
            advice="correct the checkpoint's files",
        ) from error
