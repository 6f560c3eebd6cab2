"""A question set is read line by line, and a line that is none of ours is named, whatever it
holds."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm import PocketVLMError
from pocketvlm.media.pictures import open_picture
from pocketvlm_measure.evaluation.media import source_of
from pocketvlm_measure.evaluation.questions import read_questions

GOOD = {"image": "a.png", "question": "what?", "answers": ["red"]}


def test_lines_are_read(tmp_path):
    rows = [
        GOOD,
        {
            "image": ["/x/a.png", "data:image/png;base64,AA=="],
            "question": "é?",
            "answers": ["1", "2"],
            "tags": ["t"],
        },
        {"question": "no picture?", "answers": ["red"], "id": 7, "image": None, "other": {}},
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    parsed = read_questions(path)
    assert [q.line for q in parsed.questions] == [1, 3, 5]
    assert [q.id for q in parsed.questions] == ["1", "3", "7"]
    assert [q.images for q in parsed.questions] == [
        (str(tmp_path / "a.png"),),
        ("/x/a.png", "data:image/png;base64,AA=="),
        (),
    ]
    assert (parsed.questions[1].text, parsed.questions[1].answers, parsed.questions[1].tags) == (
        "é?",
        ("1", "2"),
        ("t",),
    )
    assert parsed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not parsed.broken
    short = read_questions(path, limit=1)
    assert ([q.line for q in short.questions], short.sha256) == ([1], parsed.sha256)


HOSTILE = [
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[1]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b"[" * 100_000, "not JSON"),
    (json.dumps({**GOOD, "question": 3}).encode(), "no question"),
    (json.dumps({**GOOD, "question": " "}).encode(), "no question"),
    (json.dumps({**GOOD, "answers": []}).encode(), "no answers"),
    (json.dumps({**GOOD, "answers": "red"}).encode(), "'answers' that is not a list"),
    (json.dumps({**GOOD, "answers": ["red", 3]}).encode(), "'answers' that is not a list"),
    (json.dumps({**GOOD, "image": {"path": "x"}}).encode(), "'image' that is not a list"),
    (json.dumps({**GOOD, "image": [1]}).encode(), "'image' that is not a list"),
    (json.dumps({**GOOD, "tags": {"a": 1}}).encode(), "'tags' that is not a list"),
    (json.dumps({**GOOD, "id": [1]}).encode(), "an id"),
    (b"\0" * 50, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_broken_line_is_named_with_its_number(tmp_path, line, reason):
    good = json.dumps(GOOD).encode()
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\n".join([good, line, good]))
    parsed = read_questions(path)
    assert [q.line for q in parsed.questions] == [1, 3]
    ((number, why),) = [(item.line, item.reason) for item in parsed.broken]
    assert number == 2
    assert reason in why


@given(st.binary(max_size=60))
def test_no_bytes_at_all_end_in_anything_but_a_refusal(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "set.jsonl"
    path.write_bytes(data)
    with pytest.raises(PocketVLMError, match=r"no question|it is UTF-16"):
        read_questions(path)


def test_a_line_without_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("pocketvlm_measure.evaluation.questions.MAX_LINE_BYTES", 100)
    good = json.dumps(GOOD).encode()
    path = tmp_path / "set.jsonl"
    path.write_bytes(good + b"\n" + b"x" * 1000 + b"\n" + good)
    parsed = read_questions(path)
    assert [q.line for q in parsed.questions] == [1, 3]
    assert [(item.line, item.reason) for item in parsed.broken] == [(2, "has more than 100 bytes")]
    assert parsed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_file_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(PocketVLMError, match=r"cannot be read \(No such file"):
        read_questions(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(PocketVLMError, match="is empty"):
        read_questions(tmp_path / "empty.jsonl")


def test_a_picture_in_the_line_is_the_picture(examples_dir):
    data = (examples_dir / "scene-1.png").read_bytes()
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert (
        open_picture(source_of(uri)).tobytes()
        == open_picture(examples_dir / "scene-1.png").tobytes()
    )
    for wrong in (
        "data:image/png,abc",
        "data:image/png;base64",
        "data:;base64,***",
        "data:;base64,é",
    ):
        with pytest.raises(PocketVLMError, match="data URI"):
            source_of(wrong)
