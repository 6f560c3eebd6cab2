"""Knows the settings that may stand in several files of a checkpoint, and which file transformers
takes each from.

The order is that of the classes as they are shipped (transformers 5.23), not of their
documentation. The whole value of the first place is taken: nothing is merged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm_export.checkpoint.files import read_json, read_text


@dataclass(frozen=True)
class Place:
    """Where a setting may stand.

    Attributes:
        file: its name.
        keys: those that lead to the setting within the file; none where the file is the setting.
        shared: it is another setting's own place too, so that a difference is not a contradiction.
    """

    file: str
    keys: tuple[str, ...] = ()
    shared: bool = False

    def __str__(self) -> str:
        return f"{self.file} ({'.'.join(self.keys)})" if self.keys else self.file


@dataclass(frozen=True)
class Statement:
    """What is stated in a place: a JSON value, or a file's text."""

    place: Place
    value: Any


PROCESSOR = "processor_config.json"
PICTURES = "preprocessor_config.json"
TOKENIZER = "tokenizer_config.json"
# Of transformers 4. Some classes of transformers 5 take its tokens, others those of the file above.
TOKENS = "special_tokens_map.json"

# `ImageProcessingMixin.get_image_processor_dict`
IMAGE_PROCESSOR = (Place(PROCESSOR, ("image_processor",)), Place(PICTURES))
# `BaseVideoProcessor.get_video_processor_dict`
VIDEO_PROCESSOR = (
    Place(PROCESSOR, ("video_processor",)),
    Place("video_preprocessor_config.json"),
    Place(PICTURES, shared=True),
)
# `ProcessorMixin.get_processor_dict`; the last is the tokenizer's own, for folders whose processor
# has none.
CHAT_TEMPLATE = (
    Place(PROCESSOR, ("chat_template",)),
    Place("chat_template.json", ("chat_template",)),
    Place("chat_template.jinja"),
    Place(TOKENIZER, ("chat_template",)),
)
# `GenerationMixin.adjust_generation_fn`, then `GenerationConfig.from_model_config`; where
# generation_config.json is silent transformers would not end an answer at all.
END_OF_ANSWER = (
    Place("generation_config.json", ("eos_token_id",)),
    Place("config.json", ("eos_token_id",)),
    # The language model's own, which may have been trained further since.
    Place("config.json", ("text_config", "eos_token_id"), shared=True),
)


def statements(folder: Path, places: Sequence[Place]) -> list[Statement]:
    """Return what the files of ``folder`` state in ``places``, in their order; null is absent.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    listed = [Statement(place, _value(folder, place)) for place in places]
    return [statement for statement in listed if statement.value is not None]


def first(folder: Path, places: Sequence[Place]) -> Any:
    """Return the value that transformers takes, None where no place states one."""
    listed = statements(folder, places)
    return listed[0].value if listed else None


def contradiction(
    folder: Path,
    places: Sequence[Place],
    difference: Callable[[Statement, Statement], str],
) -> list[str]:
    """Return a sentence for each place whose value is passed over and differs from the one taken.

    Args:
        folder: of the checkpoint.
        places: in the order that transformers looks.
        difference: in what the second statement differs from the first, in words; empty where that
            changes nothing.
    """
    stated = statements(folder, places)
    differences = [
        (other.place, difference(stated[0], other))
        for other in stated[1:]
        if not other.place.shared
    ]
    return [
        f"{stated[0].place} and {place} differ in {words}; the first is used, as transformers does"
        for place, words in differences
        if words
    ]


def _value(folder: Path, place: Place) -> Any:
    path = folder / place.file
    if not place.keys:
        if not path.is_file():
            return None
        return read_json(path) if path.suffix == ".json" else read_text(path)
    value: Any = read_json(path)
    for key in place.keys:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise CheckpointError(
                f"{path} has no object above {'.'.join(place.keys)}", advice=f"correct {path.name}"
            )
        value = value.get(key)
    return value
