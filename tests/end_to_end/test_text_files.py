"""Every kind of text file that people edit is read alike: whatever an editor puts before the text
or at the ends of lines, and in one line where it is not UTF-8."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from pocketvlm import Artifact, PocketVLMError
from pocketvlm.cli.target import load_target
from pocketvlm_export.checkpoint import chat_template, read_json
from pocketvlm_export.packaging.card import source_license
from pocketvlm_measure.evaluation.public import BENCHMARKS
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.profiler.compare import compare
from pocketvlm_targets.text import decode_text
from support.tiny_artifact import write_artifact


class Kind(NamedTuple):
    """A file's name, its text, and what reads it from its folder."""

    name: str
    text: str
    read: Callable[[Path], Any]


def questions(folder: Path) -> Any:
    data = read_questions(folder / "set.jsonl")
    return [(item.line, item.text, item.answers) for item in data.questions], data.broken


def converted(folder: Path) -> Any:
    gqa, pope = folder / "gqa.json", folder / "coco_pope_random.json"
    name, file = ("gqa", gqa) if gqa.exists() else ("pope", pope)
    BENCHMARKS[name].convert([file], folder, folder / "out.jsonl")
    return (folder / "out.jsonl").read_text(encoding="utf-8")


def profile_rows() -> str:
    row = {
        "budget": 36,
        "decoder": "onnx",
        "decoder_precision": "fp32",
        "vision_precision": "fp32",
        "n_threads": 2,
        "cpu_info": "one\u2028two",  # ends a line for `str.splitlines`, not for JSON
        "samples_ns": [100, 101, 102],
    }
    stages = [row | {"stage": stage} for stage in ("ttft", "decode")]
    return "".join(f"{json.dumps(stage, ensure_ascii=False)}\n" for stage in stages)


QUESTIONS = """\
{"question": "wie heißt\u2028es?", "answers": ["a"]}

{"question": "b", "answers": ["ü"]}
"""
_QUESTION = {"question": "ist das\u0085grün?", "answer": "ja", "imageId": "p"}
GQA = {"1": {**_QUESTION, "types": {"structural": "verify"}}}
POPE = {"question_id": 1, "image": "p.jpg", "text": "ist\u2028das grün?", "label": "no"}
KINDS = {
    "target": Kind(
        "board.toml",
        '# Größe\nbudget = [9]\ndescription = "a board"\n',
        lambda folder: vars(load_target(folder / "board.toml")),
    ),
    "question set": Kind("set.jsonl", QUESTIONS, questions),
    "benchmark": Kind("gqa.json", json.dumps(GQA, ensure_ascii=False, indent=1), converted),
    "benchmark of lines": Kind(
        "coco_pope_random.json", json.dumps(POPE, ensure_ascii=False) + "\n", converted
    ),
    "profile": Kind(
        "rows.jsonl",
        profile_rows(),
        lambda folder: compare(folder / "rows.jsonl", folder / "rows.jsonl"),
    ),
    "template": Kind(
        "chat_template.jinja",
        "{% for m in messages %}\n{{ m['content'] }} ¿\n{% endfor %}\n",
        chat_template,
    ),
    "model card": Kind("README.md", "---\nlicense: mit\n---\n# Ein Modell für\n", source_license),
}
# Marks and line ends by name.
SAME = {
    "as it is": lambda text: text.encode(),
    "marked": lambda text: codecs.BOM_UTF8 + text.encode(),
    "of Windows": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
}
WIDE = {
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16-le without a mark": lambda text: text.encode("utf-16-le"),
    "utf-32": lambda text: text.encode("utf-32"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_marks_and_line_ends_change_nothing(tmp_path, kind):
    name, text, read = KINDS[kind]
    (tmp_path / "p.jpg").touch()
    results = {}
    for way, encode in SAME.items():
        (tmp_path / name).write_bytes(encode(text))
        results[way] = read(tmp_path)
    assert results["as it is"]
    assert results["marked"] == results["as it is"]
    assert results["of Windows"] == results["as it is"]


@pytest.mark.parametrize("way", WIDE)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "model card"])
def test_wide_characters_are_refused_in_one_line(tmp_path, kind, way):
    name, text, read = KINDS[kind]
    (tmp_path / name).write_bytes(WIDE[way](text))
    with pytest.raises(PocketVLMError) as refused:
        read(tmp_path)
    assert f"{name}" in str(refused.value)
    assert "it is UTF-16 or UTF-32: save it as UTF-8" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"gr\xfcn", b"\xff\xff"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "model card"])
def test_other_encodings_are_refused_in_one_line(tmp_path, kind, content):
    name, text, read = KINDS[kind]
    (tmp_path / name).write_bytes(text.encode("latin-1", "replace") + content)
    if kind == "question set":  # whose lines are broken one by one
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PocketVLMError, match=name):
        read(tmp_path)


def test_a_card_of_another_encoding_names_no_licence(tmp_path):
    for encode in WIDE.values():
        (tmp_path / "README.md").write_bytes(encode(KINDS["model card"].text))
        assert source_license(tmp_path) is None


def test_a_manifest_may_be_marked(tmp_path):
    write_artifact(tmp_path / "artifact")
    manifest = tmp_path / "artifact" / "pocketvlm.json"
    before, plain = Artifact.open(tmp_path / "artifact").manifest, manifest.read_bytes()
    manifest.write_bytes(codecs.BOM_UTF8 + plain)
    assert Artifact.open(tmp_path / "artifact").manifest == before
    manifest.write_bytes(plain.decode().encode("utf-16"))
    with pytest.raises(PocketVLMError, match=r"pocketvlm.json cannot be read \(it is UTF-16"):
        Artifact.open(tmp_path / "artifact")


def test_what_transformers_does_not_read_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{"model_type": "clip"}')
    with pytest.raises(OSError, match="not a valid JSON"):
        AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(PocketVLMError, match=r"config\.json begins with a byte order mark"):
        read_json(path)
    path.write_bytes(b'{"model_type": "clip"}')
    assert AutoConfig.from_pretrained(tmp_path).model_type == read_json(path)["model_type"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")))
def test_any_text_comes_back(text):
    if not text.startswith("\ufeff"):
        assert decode_text(text.encode()) == text
    assert decode_text(codecs.BOM_UTF8 + text.encode()) == text
    assert decode_text(text.replace("\n", "\r\n").encode()) == text.removeprefix("\ufeff")
