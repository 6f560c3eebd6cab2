"""Questions without answers: which are asked, and that agreement is what comparing answers by hand
gives."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pocketvlm import VLM, Sampling
from pocketvlm.errors import RequestError
from pocketvlm_measure.evaluation.engines import ENGINES
from pocketvlm_measure.tune.agreement import FIGURE, METRICS, Agreement, Overlap, read_pairs
from pocketvlm_measure.tune.measured import Asking, Measured
from support.tunings import candidate

EXACT = {"decoder_precision": "fp32", "vision_precision": "fp32", "threads": 1}
WORDS = st.lists(st.sampled_from(["a", "red", "cat", "on", "mat"]), max_size=6)


@pytest.fixture
def folder(tmp_path):
    """Three pictures, and what is none."""
    root = tmp_path / "pictures"
    (root / "further").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.PNG", "c.jpg")):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name)
    (root / "notes.txt").write_text("none")
    (root / ".hidden.png").write_text("none")
    return root


@pytest.fixture
def write(tmp_path):
    def call(text):
        path = tmp_path / "questions.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return call


def test_every_question_is_asked_about_every_picture(folder, write):
    pairs = read_pairs(folder, write("\ufeffwhat?\r\n\r\n  where? \nwhat?\n"))
    asked = [(one.images[0].rpartition("/")[2], one.text) for one in pairs.questions.questions]
    names = ("a.PNG", "b.png", "c.jpg")
    assert asked == [(name, text) for name in names for text in ("what?", "where?")]
    assert [one.line for one in pairs.questions.questions] == list(range(1, 7))
    assert (pairs.sampled, pairs.ignored) == (False, 1)
    assert "every pair" in pairs.note
    assert FIGURE in pairs.note
    assert "not accuracy" in pairs.note


@pytest.mark.parametrize("limit", range(1, 13))
def test_a_sample_is_spread_evenly_and_stated(folder, write, limit):
    pairs = read_pairs(folder, write("a\nb\nc\nd"), limit)
    asked = [(one.images[0], one.text) for one in pairs.questions.questions]
    assert len(set(asked)) == len(asked) == limit
    for place, uneven in ((0, 1), (1, 2)):
        counts = Counter(pair[place] for pair in asked)
        assert max(counts.values()) - min(counts.values()) <= uneven
    assert pairs.sampled == (limit < 12)
    assert (f"{limit} of 12 pairs" in pairs.note) == (limit < 12)


def test_another_picture_or_question_is_another_set(folder, write):
    first = read_pairs(folder, write("what?")).questions.sha256
    assert read_pairs(folder, write("what?\n")).questions.sha256 == first
    assert read_pairs(folder, write("where?")).questions.sha256 != first
    Image.new("RGB", (9, 9)).save(folder / "b.png")
    assert read_pairs(folder, write("what?")).questions.sha256 != first


def test_agreement_is_what_comparing_by_hand_gives(folder, write, artifact_dir, tmp_path):
    pairs = read_pairs(folder, write("what is in it?\nhow many?"))
    replies = {}
    for budget in (12, 3):
        vlm = VLM.load(artifact_dir, budget=budget)
        for one in pairs.questions.questions:
            answer = vlm.generate(
                one.text, [one.images[0]], sampling=Sampling(max_new_tokens=4)
            ).text
            replies[budget, one.text, one.images] = answer.strip().rstrip(".").lower()
    baseline, pruned = (candidate(k, str(artifact_dir), **EXACT) for k in (12, 3))
    asking = Asking(
        pairs.questions,
        Agreement(),
        tmp_path / "answers.jsonl",
        ENGINES["local"](1),
        max_new_tokens=4,
        agreement=True,
    )
    with Measured(baseline, [pruned], asking) as source:
        scores = source.answer([baseline, pruned], range(6), until=1e9)
    assert set(scores[baseline].values()) == {1.0}
    whole = [text for (budget, *_), text in replies.items() if budget == 12]
    fewer = [text for (budget, *_), text in replies.items() if budget == 3]
    by_hand = [float(one == other) for one, other in zip(whole, fewer, strict=True)]
    assert sorted(scores[pruned].values()) == sorted(by_hand)
    assert len(set(whole)) > 1  # else whatever is compared with whatever agrees


@given(WORDS, WORDS)
def test_overlap_is_the_f1_of_words(ours, theirs):
    common = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
    if not ours and not theirs:
        expected = 1.0
    elif not common:
        expected = 0.0
    else:
        precision, recall = common / len(ours), common / len(theirs)
        expected = 2 * precision * recall / (precision + recall)
    assert Overlap().score(" ".join(ours), [" ".join(theirs)]) == pytest.approx(expected)


def test_both_metrics_say_what_they_count():
    assert set(METRICS) == {"exact", "overlap"}
    assert all(metric.figures == (FIGURE,) for metric in METRICS.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (b"\xff\xfew\x00", "UTF-16"),
        (b"\xe9t\xe9", "cannot be read"),
        (None, "No such file"),
    ],
)
def test_files_without_questions_are_refused(folder, write, tmp_path, text, words):
    path = tmp_path / "missing.txt" if text is None else write(text)
    with pytest.raises(RequestError, match=words) as caught:
        read_pairs(folder, path)
    assert caught.value.setting == "questions"


def test_folders_without_pictures_are_refused(write, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    for path, words in (
        (tmp_path / "empty", "holds no picture"),
        (tmp_path / "missing", "No such file"),
        (write("what?"), "Not a directory"),
    ):
        with pytest.raises(RequestError, match=words) as caught:
            read_pairs(path, write("what?"))
        assert caught.value.setting == "pictures"
