"""Knows what settings somebody might add to a checkpoint's files: names that transformers' own
source reads, with values that name files, folders and repositories."""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import transformers

from fuzz.base import OUTSIDE, SECRET, put
from fuzz.json_changes import odd

# By which transformers is known to have loaded code, other files or repositories.
DANGEROUS = (
    "auto_map", "custom_generate", "gguf_file", "configuration_files", "fast_tokenizer_files",
    "backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "quantization_config",
    "_attn_implementation", "attn_implementation", "_experts_implementation", "kernel_config",
    "use_kernels", "per_layer_config", "dtype", "torch_dtype", "tokenizer_file", "vocab_file",
    "merges_file", "spm_file", "tokenizer_class", "tokenizer_type", "image_processor_type",
    "feature_extractor_type", "video_processor_type", "processor_class", "init_inputs",
    "name_or_path", "_name_or_path", "base_model_name_or_path", "adapter_kwargs", "peft_config",
    "repo_path", "class_info_file", "subfolder", "cache_dir", "revision", "_commit_hash",
    "code_revision", "trust_remote_code", "tokenizer_object", "model_type", "architectures",
    "extra_files", "special_tokens_map_file", "added_tokens_file", "chat_template_file",
)  # fmt: skip
_VALUES = (
    *OUTSIDE, "named.json", "evil/repo", "evil/repo--module.Class", "module.Class", "load",
    "kernels-community/flash-attn3", "kernels-community/flash-attn3:function", "https://evil/a",
    "detr", "timm_wrapper", "OneFormerImageProcessor", "MarianTokenizer", "compressed-tensors",
)  # fmt: skip
# A name in quotes that is taken, looked for or compared; the field of a class or of a dictionary.
_TAKEN = (
    re.compile(r'"([a-z_]\w{2,40})"(?:[\],):]| (?:not )?in )'),
    re.compile(r"^    ([a-z_]\w{2,40}): ", re.MULTILINE),
)
_SOURCES = (
    "*.py", "models/auto/*.py", "models/*/configuration_*.py", "models/*/image_processing_*.py",
    "models/*/tokenization_*.py", "generation/*.py", "integrations/*.py", "quantizers/*.py",
)  # fmt: skip
_CODE = f"open('../{SECRET}').read()\nclass Class: pass\n"
# What lies beside the files that are read, for whoever follows such a name.
_BESIDE = {
    "named.json": b"{}", "config.1.0.0.json": b'{"model_type": "detr"}', "tekken.json": b"{}",
    "tokenizer.1.0.0.json": b"{}", "vocab.json": b"{}", "merges.txt": b"a b\n",
    "tokenizer.model": b"\x0a\x00", "adapter_config.json": b'{"base_model_name_or_path": "a/b"}',
    "module.py": _CODE.encode(), "custom_generate/generate.py": _CODE.encode(),
    "additional_chat_templates/other.jinja": b"{{ 1 }}", "modeling_llava.py": _CODE.encode(),
}  # fmt: skip


def names_read() -> Sequence[str]:
    """The names of settings that the installed transformers reads, and of some that it does not,
    sorted: some thousands."""
    root = Path(transformers.__file__).parent
    sources = (path.read_text("utf-8") for each in _SOURCES for path in root.glob(each))
    return sorted({name for text in sources for taken in _TAKEN for name in taken.findall(text)})


def added(random: Random, document: Any, names: Sequence[str]) -> Any:
    """A copy of a document with one to six settings more, somewhere in it."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        objects = _objects(document)
        if objects:
            holder = random.choice((objects[0], random.choice(objects)))
            name = random.choice(DANGEROUS if random.random() < 0.4 else names)
            if name not in holder or random.random() < 0.1:  # what is read is changed elsewhere
                holder[name] = _value(random)
    return document


def put_beside(random: Random, box: Path) -> None:
    """Write some files that no checkpoint needs."""
    for name in random.sample(sorted(_BESIDE), k=random.choice((1, 2, 5))):
        put(box / name, _BESIDE[name])


def _objects(document: Any) -> list[dict[str, Any]]:
    found, waiting = [], [document]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found.append(each)
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each[:20]
    return found


def _value(random: Random) -> Any:
    if random.random() < 0.2:
        return odd(random)
    value = random.choice(_VALUES)
    kind = random.randrange(12)
    if kind < 7:
        return value
    return (
        [value],
        dict.fromkeys(("AutoConfig", "AutoTokenizer", "AutoImageProcessor"), value),
        {"0": {"_attn_implementation": value}, "quant_method": "mxfp4", "model_type": value},
        {value: value},
        [True, 1, 2.5][random.randrange(3)],
    )[kind - 7]
