"""Knows how transformers' own processors are had of families whose class also wants a video
processor, which needs packages that are not installed."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm

# What a processor is made of; the other parameters of its class are settings in its file.
_GIVEN = {"self", "image_processor", "tokenizer", "video_processor", "chat_template"}


def processor_of(folder: Path | str) -> ProcessorMixin:
    """Return the processor that ``folder``'s files name, for pictures and texts only.

    It is the family's class itself (of Qwen2-VL, Qwen2.5-VL, InternVL, SmolVLM and others):
    templates, slots and ids are written by transformers' code. Pictures go through the PIL backend.
    Clips are not read: ``videos=`` is passed over, and their placeholders stay single tokens.
    """
    folder = Path(folder)
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stated = {
        **_read(folder / "preprocessor_config.json"),
        **_read(folder / "processor_config.json"),
    }
    family = getattr(transformers, stated["processor_class"])
    parameters = inspect.signature(family.__init__).parameters.keys()
    options = {key: stated[key] for key in parameters - _GIVEN if key in stated}
    # SmolVLM's asks for a package that writes the number of a clip's frames in words.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    if "video_processor" in parameters:
        options["video_processor"] = None  # which some ask for
    processor = _without_videos(family)(
        image_processor=images, tokenizer=tokenizer, chat_template=_template(folder), **options
    )
    # What its template's defaults are taken from, whatever is in the conversation.
    processor.video_processor = SimpleNamespace(num_frames=None, fps=None)
    return processor


def _without_videos(family: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The same class, whose list of parts lacks the video processor: what is not in the list is
    neither asked for nor used."""
    parts = [name for name in family.get_attributes() if name != "video_processor"]
    members = {"get_attributes": classmethod(lambda cls: parts), "__module__": family.__module__}
    return type(family.__name__, (family,), members)


def _template(folder: Path) -> str | None:
    """The chat template, by the class's own order of files."""
    stated, _ = ProcessorMixin.get_processor_dict(folder)
    return stated.get("chat_template") or _read(folder / "tokenizer_config.json").get(
        "chat_template"
    )


def _read(path: Path) -> dict[str, Any]:
    stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return stated
