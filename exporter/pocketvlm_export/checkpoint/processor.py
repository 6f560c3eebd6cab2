"""Knows the files beside the weights by which pictures and prompts are prepared, as transformers
reads them."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from pocketvlm.errors import CheckpointError, library_errors
from pocketvlm.layouts import Medium
from pocketvlm.text.tokenizer_files import MAX_BYTES, TokenizerFault, check_tokenizer
from pocketvlm_export.checkpoint.allowed import (
    picture_class_folder,
    picture_settings,
    tokenizer_folder,
)
from pocketvlm_export.checkpoint.files import read_json, read_text
from pocketvlm_export.checkpoint.places import (
    CHAT_TEMPLATE,
    END_OF_ANSWER,
    IMAGE_PROCESSOR,
    TOKENIZER,
    TOKENS,
    VIDEO_PROCESSOR,
    Place,
    Statement,
    contradiction,
    first,
    statements,
)
from pocketvlm_export.checkpoint.refused import check_picture_class, check_tokenizer_config
from pocketvlm_export.checkpoint.settings import Settings
from pocketvlm_export.quiet import quiet_transformers

# What a medium's frames are prepared by.
_PLACES: Mapping[Medium, tuple[Place, ...]] = {"image": IMAGE_PROCESSOR, "video": VIDEO_PROCESSOR}
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_SWITCHES = (
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_pad",
    "do_convert_rgb",
    "do_image_splitting",
    "crop_to_patches",
)
# Names and places of the class, and what a call decides: no two files contradict each other there.
_NOT_OF_PIXELS = {
    "data_format",
    "device",
    "disable_grouping",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "video_processor_type",
}


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer as transformers builds it from what `allowed` has of ``folder``, without
    running any code of the checkpoint.

    Raises:
        PocketVLMError: its files cannot be read.
    """
    with library_errors(
        lambda reason: CheckpointError(
            f"{folder / 'tokenizer.json'} cannot be read ({reason})", advice="download it again"
        )
    ):
        _check(folder / "tokenizer.json")
        check_tokenizer_config(folder)
        with quiet_transformers(), tokenizer_folder(folder) as own:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                own, trust_remote_code=False, local_files_only=True
            )
            tokenizer("a")  # some settings are looked at when it is called
            return tokenizer


def _check(path: Path) -> None:
    """Refuse a tokenizer that the artifact's runtime would not read either, with its reason: to
    download a sound one again does not help."""
    if path.is_file():
        info = path.stat()
        _check_once(path, info.st_size, info.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _check_once(path: Path, size: int, modified: int) -> None:
    """An export loads a tokenizer several times, and reading a large one takes half a second."""
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{path} has {size >> 20} MB", expected=f"at most {MAX_BYTES >> 20}, as published ones"
        )
    try:
        check_tokenizer(read_text(path))
    except TokenizerFault as fault:
        raise CheckpointError(
            f"{path} is not one that PocketVLM reads ({fault})",
            expected="what tokenizers of published models are made of",
            advice="see docs/security.md",
        ) from fault


def special_tokens(tokenizer: transformers.PreTrainedTokenizerFast) -> dict[str, str]:
    """The special tokens that chat templates may use, by their names, such as ``bos_token``."""
    named = tokenizer.special_tokens_map.items()
    return {name: token for name, token in named if isinstance(token, str)}


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


def load_image_processor(folder: Path, medium: Medium = "image") -> Any:
    """The image processor as transformers builds it from what `allowed` has of ``folder``, its
    Pillow backend, without running any code of the folder.

    For clips it has the settings of the video processor, whose own class wants torchvision.

    Raises:
        PocketVLMError: its files cannot be read.
    """
    statement = _taken(folder, medium)
    check_picture_class(folder, statement.value)
    stated = first(folder, IMAGE_PROCESSOR)  # the class is that of pictures, whatever the medium
    named = stated if isinstance(stated, Mapping) else {}
    check_picture_class(folder, named)
    with (
        library_errors(functools.partial(_unbuilt, folder, statement)),
        quiet_transformers(),
        picture_class_folder(folder, named) as own,
    ):
        processor = transformers.AutoImageProcessor.from_pretrained(
            own, backend="pil", trust_remote_code=False, local_files_only=True
        )
    return _built(type(processor), folder, statement)


def image_processor(folder: Path, medium: Medium = "image") -> dict[str, Any]:
    """Return the settings by which pictures, or the frames of clips, are prepared: those that
    transformers' class has once it is built of the files in ``folder``.

    So what is absent is the class's own default, a switch that is null is off, as it is for the
    class, and no older spelling is left.

    Raises:
        CheckpointError: no file states them, or a value is of another type.
    """
    statement = _taken(folder, medium)
    processor = load_image_processor(folder, medium)
    made = _attributes(processor)
    kind = statement.value.get("image_processor_type")
    name = kind if isinstance(kind, str) else type(processor).__name__.removesuffix("Pil")
    stated = {key: value for key, value in statement.value.items() if value is not None}
    for key in ("video_processor_type", *_replaced(stated, made)):
        stated.pop(key, None)
    settings = {**stated, **made, "image_processor_type": name}
    _check_types(Settings(settings, str(statement.place)))
    return settings


def conflicts(folder: Path, medium: Medium = "image") -> list[str]:
    """Return a sentence for each setting that two files of ``folder`` state differently, naming
    both, where that changes what is exported."""
    return [
        *contradiction(folder, _PLACES[medium], _Pixels(load_image_processor(folder, medium))),
        *contradiction(folder, CHAT_TEMPLATE, _templates),
        *contradiction(folder, END_OF_ANSWER, _ends),
        *_silent(folder),
        *_of_tokens(folder),
    ]


def chat_template(folder: Path) -> str:
    """Return the chat template of a checkpoint; raises `CheckpointError` where there is none."""
    for statement in statements(folder, CHAT_TEMPLATE):
        template = _default(statement.value)
        if template is not None:
            return template
    raise CheckpointError(
        f"{folder} has no chat template",
        advice="add chat_template.jinja, as the checkpoint's model card describes its prompt",
    )


def _of_tokens(folder: Path) -> list[str]:
    """A sentence where two files name other special tokens, with those that the class takes."""
    one, other = ({**read_json(folder / name)} for name in (TOKENIZER, TOKENS))
    differing = [
        name
        for name in _SPECIAL_TOKENS
        if None not in (pair := (_content(one.get(name)), _content(other.get(name))))
        and pair[0] != pair[1]
    ]
    if not differing:
        return []
    taken = load_tokenizer(folder).special_tokens_map
    used = ", ".join(f"{name} {taken.get(name)!r}" for name in differing)
    return [
        f"{TOKENIZER} and {TOKENS} differ in {', '.join(differing)}; {used} is used, as "
        "transformers does"
    ]


def _content(token: Any) -> Any:
    """The text of a special token, which older files have among its properties."""
    return token.get("content") if isinstance(token, Mapping) else token


class _Pixels:
    """In which settings a second image processor's configuration differs from that of the first,
    both as the class understands them."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, taken: Statement, other: Statement) -> str:
        if not isinstance(other.value, Mapping):
            return "all of it"
        try:
            second = _attributes(_built(type(self.processor), Path(), other))
        except CheckpointError:  # values that no class takes
            return "all of it"
        own = _attributes(self.processor)
        keys = sorted((own.keys() | second.keys()) - _NOT_OF_PIXELS)
        return ", ".join(key for key in keys if own.get(key) != second.get(key))


def _taken(folder: Path, medium: Medium) -> Statement:
    stated = statements(folder, _PLACES[medium])
    if not stated:
        raise CheckpointError(
            f"{folder} has no preprocessor_config.json", advice="download the whole checkpoint"
        )
    if not isinstance(stated[0].value, Mapping):
        place = stated[0].place
        raise CheckpointError(f"{place} holds no JSON object", advice=f"correct {place.file}")
    return stated[0]


def _built(kind: Any, folder: Path, statement: Statement) -> Any:
    """An image processor of the class ``kind`` with what is allowed of the settings stated."""
    with library_errors(functools.partial(_unbuilt, folder, statement)), quiet_transformers():
        return kind(**picture_settings(kind, statement.value))


def _unbuilt(folder: Path, statement: Statement, reason: str) -> CheckpointError:
    """What a class raises of values that nobody has checked."""
    return CheckpointError(
        f"the image processor in {folder} cannot be built ({reason})",
        advice=f"correct {statement.place.file}",
    )


def _attributes(processor: Any) -> dict[str, Any]:
    """The settings of a processor as JSON has them: a switch that is null is off, and what else is
    null is left out."""
    made = json.loads(processor.to_json_string())
    off = {key: False for key in _SWITCHES if key in made and made[key] is None}
    return {key: value for key, value in made.items() if value is not None} | off


def _replaced(stated: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Older names of settings that the class has under another name."""
    return [key for key in ("min_pixels", "max_pixels") if key in stated and key not in made]


def _check_types(settings: Settings) -> None:
    """Refuse values that transformers' class would keep and fail on when it is called."""
    for key in _SWITCHES:
        settings.boolean(key, False)
    if settings.boolean("do_rescale", False):
        settings.number("rescale_factor")
    if settings.boolean("do_resize", False) or settings.stated("resample") is not None:
        settings.integer("resample", least=0, most=5)
    if settings.boolean("do_normalize", False):
        settings.channels("image_mean")
        settings.channels("image_std")
    if settings.boolean("do_center_crop", False):
        settings.section("crop_size").integer("height")
        settings.section("crop_size").integer("width")


def _default(template: Any) -> str | None:
    """The template itself, or the default of several by their names."""
    if isinstance(template, list):
        named = [each for each in template if isinstance(each, Mapping)]
        template = {str(each.get("name")): each.get("template") for each in named}
    if isinstance(template, Mapping):
        template = template.get("default")
    return template if isinstance(template, str) else None


def _templates(taken: Statement, other: Statement) -> str:
    first, second = _default(taken.value), _default(other.value)
    return "the chat template" if first is not None and second not in (None, first) else ""


def _ends(taken: Statement, other: Statement) -> str:
    """Where one lists more ids than the other, both end the answers of the same model."""
    first, second = (
        {str(token) for token in value} if isinstance(value, list) else {str(value)}
        for value in (taken.value, other.value)
    )
    return "" if first & second else "the end of an answer"


def _silent(folder: Path) -> list[str]:
    """Where generation_config.json is there and names no end of an answer."""
    named, stated = END_OF_ANSWER[0], statements(folder, END_OF_ANSWER)
    if not stated or stated[0].place == named or not (folder / named.file).is_file():
        return []
    return [
        f"{named.file} names no eos_token_id; that of {stated[0].place} ends an answer, where "
        "transformers would continue"
    ]
