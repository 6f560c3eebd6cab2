"""A checkpoint's tokenizer is checked before transformers gives it to the library."""

import json

import pytest

from pocketvlm.errors import CheckpointError
from pocketvlm_export.checkpoint import load_tokenizer, text_ids
from support import tiny_tokenizers


@pytest.fixture
def folder(tmp_path):
    tiny_tokenizers.save(tiny_tokenizers.byte_level("qwen2"), tmp_path)
    return tmp_path


def test_a_sound_tokenizer_is_read(folder):
    tokenizer = load_tokenizer(folder)
    assert text_ids(tokenizer, "a red circle") == tokenizer("a red circle")["input_ids"]


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 60}},
        {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 999}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Removed"}},
        {"model": 7},
    ],
)
def test_a_hostile_tokenizer_is_refused(folder, part):
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | part))
    with pytest.raises(CheckpointError, match=r"is not one that PocketVLM reads \(its "):
        load_tokenizer(folder)
