"""A checkpoint's tokenizer for OpenVINO GenAI, ``CHECKPOINT FOLDER``: optimum-intel leaves it out
where its transformers does not know the tokenizer's class."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer
from transformers import PreTrainedTokenizerFast

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
COPIED = ("chat_template.jinja", "processor_config.json", "preprocessor_config.json")


def main(checkpoint: Path, folder: Path) -> None:
    """Write both graphs, the tokenizer's files and the template beside the model."""
    stated = json.loads((checkpoint / "tokenizer_config.json").read_text())
    special = {name: stated[name] for name in SPECIAL if stated.get(name)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"),
        **{
            name: value if isinstance(value, str) else value["content"]
            for name, value in special.items()
        },
    )
    template = checkpoint / "chat_template.jinja"
    if template.is_file():
        tokenizer.chat_template = template.read_text()
    tokenizer.save_pretrained(folder)
    graphs = zip(
        ("tokenizer", "detokenizer"),
        convert_tokenizer(tokenizer, with_detokenizer=True),
        strict=True,
    )
    for name, graph in graphs:
        openvino.save_model(graph, str(folder / f"openvino_{name}.xml"))
    for name in COPIED:
        if (checkpoint / name).is_file() and not (folder / name).exists():
            shutil.copy(checkpoint / name, folder / name)


main(Path(sys.argv[1]), Path(sys.argv[2]))
