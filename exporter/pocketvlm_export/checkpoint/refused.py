"""Knows the settings by which transformers would make another model, tokenizer or image processor
of a checkpoint than the exporter does. They are refused; everything else that is not allowed, see
`allowed`, is left out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError
from pocketvlm_export import upstream
from pocketvlm_export.checkpoint.allowed import CONFIG, PICTURES, TOKENIZER
from pocketvlm_export.checkpoint.files import read_json
from pocketvlm_export.checkpoint.settings import brief

# Of config.json, at any depth.
_QUANTIZED = "quantization_config"
# The first names files of which transformers reads one in place of config.json. The second is a
# configuration of single layers.
_OTHER_CONFIGS = frozenset({"configuration_files", "per_layer_config"})
# Of tokenizer_config.json: transformers reads one of them in place of tokenizer.json.
_OTHER_TOKENIZERS = "fast_tokenizer_files"
# Classes of transformers that prepare pictures from their settings alone. Others fetch files from
# the Hub when they are built, or read any that is named, as OneFormer's does.
_PICTURE_CLASSES = frozenset(
    f"{name}ImageProcessor"
    for name in (
        *("Bit", "Blip", "CLIP", "ConvNext", "DeiT", "Gemma3", "GotOcr2", "Idefics2", "Idefics3"),
        *("Lfm2Vl", "Llava", "LlavaNext", "LlavaOnevision", "Pixtral", "Qwen2VL", "Siglip"),
        *("Siglip2", "SmolVLM", "VideoLlava", "ViT"),
    )
)
_SUFFIXES = ("Fast", "Pil")  # of the same classes for other libraries


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config.json of a quantized model, or one whose settings would have transformers
    read another configuration than this one. Raises `CheckpointError`."""
    for path, value in _settings(config):
        name = path.rpartition(".")[2]
        if name == _QUANTIZED:
            where = f" ({path} of {CONFIG})" if path != name else ""
            raise CheckpointError(
                f"{folder} is already quantized{where}",
                advice="give the float16, bfloat16 or float32 checkpoint",
            )
        if name in _OTHER_CONFIGS:
            raise _refused(folder / CONFIG, path, value)


def check_tokenizer_config(folder: Path) -> None:
    """Refuse a tokenizer that transformers would read from other files than tokenizer.json: by
    their names, or by a class that has files of its own. Raises `CheckpointError`."""
    named = read_json(folder / TOKENIZER).get(_OTHER_TOKENIZERS)
    if named is not None:
        raise _refused(folder / TOKENIZER, _OTHER_TOKENIZERS, named)
    for file in (TOKENIZER, CONFIG):
        kind = read_json(folder / file).get("tokenizer_class")
        if kind is not None and not (isinstance(kind, str) and upstream.reads_tokenizer_json(kind)):
            raise CheckpointError(
                f"{folder / file} has tokenizer_class {brief(kind)}",
                expected="a class that reads tokenizer.json",
                advice="save the tokenizer as transformers' PreTrainedTokenizerFast",
            )


def check_picture_class(folder: Path, stated: Mapping[str, Any]) -> None:
    """Refuse an image processor of a class that does more than to prepare pictures by its
    settings, which are ``stated``. Raises `CheckpointError`."""
    for file, settings in ((PICTURES, stated), (CONFIG, read_json(folder / CONFIG))):
        for key in ("image_processor_type", "feature_extractor_type"):
            kind = settings.get(key)
            if kind is not None and _plain(kind) not in _PICTURE_CLASSES:
                raise CheckpointError(
                    f"the image processor in {folder} is unknown ({key} {brief(kind)})",
                    expected=f"one like {', '.join(sorted(_PICTURE_CLASSES)[2:6])}",
                    advice=f"correct {file}",
                )


def _plain(kind: Any) -> str:
    """A class by the name that all libraries' forms of it share."""
    name = str(kind).replace("FeatureExtractor", "ImageProcessor")
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """Every setting that is not null, at any depth, with the keys that lead to it."""
    waiting = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping):
            inner = [(f"{path}{key}", each) for key, each in value.items() if each is not None]
            yield from inner
            waiting += [(f"{name}.", each) for name, each in inner]
        elif isinstance(value, list):
            waiting += [(path, each) for each in value]


def _refused(file: Path, name: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{file} has {name} {brief(value)}, which would have another file or class read than was "
        "checked",
        advice="leave it out",
    )
