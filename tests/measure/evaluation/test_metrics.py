"""Metrics give what the original scripts give, and what their definitions say, stated otherwise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.metrics.anls import edit_distance
from pocketvlm_measure.evaluation.metrics.vqa_text import normalise

WORDS = st.sampled_from(
    ["two", "2", "a red car", "dont", "can't", "1,000", "no.", "-", "Yes", "it's", ""]
)

# (answer, annotators' answers with how often each, VQA's score, TextVQA's), as the VQA authors'
# evaluation script of 2021 and the evaluator that LLaVA uses for TextVQA gave them.
SCRIPTS = [
    ("Two.", {"2": 6, "two": 2, "3": 2}, 1.0, 1.0),
    ("the Red car", {"red car": 2, "car": 8}, 0.6, 0.6),
    ("red-car", {"red car": 3, "a car": 7}, 0.9, 0.9),
    ("1,000", {"1000": 5, "1,000": 5}, 1.0, 1.0),
    ("dont know", {"don't know": 4, "no": 6}, 1.0, 1.0),
    ("it's 3.5 m.", {"it's 3.5 m": 1, "3.5": 9}, 0.3, 0.3),
    ("yes", {"yes": 10}, 1.0, 1.0),
    ("Yes!", {"yes": 10}, 0.0, 1.0),
    ("yes!", {"yes!": 10}, 1.0, 1.0),
    ("no\nyes", {"no yes": 3, "no": 7}, 0.9, 0.9),
    ("none", {"0": 1, "none": 9}, 1.0, 1.0),
    ("a", {"a": 10}, 1.0, 1.0),
    ("black/white", {"black and white": 4, "black/white": 6}, 1.0, 1.0),
    ("black / white", {"black white": 2, "black/white": 8}, 1.0, 1.0),
    ("McDonald's, Paris?", {"mcdonald's paris": 3, "mcdonalds": 7}, 0.9, 0.9),
    ("Coca-Cola", {"coca cola": 2, "coca-cola": 4, "coke": 4}, 1.0, 1.0),
    ("10:30", {"10:30": 7, "half past ten": 3}, 1.0, 1.0),
    ("two", {"two": 10}, 1.0, 1.0),
    ("2", {"two": 10}, 0.0, 1.0),
    ("two", {"two": 9, "2": 1}, 1.0, 1.0),
    ("Red", {"red": 10}, 0.0, 1.0),
    ("Red", {"red": 9, "dark red": 1}, 1.0, 1.0),
    ("the cat", {"the cat": 10}, 1.0, 1.0),
    ("cat", {"the cat": 3, "dog": 7}, 0.9, 0.9),
    ("a", {"a": 5, "the": 5}, 1.0, 1.0),
    (" yes\n", {"yes": 10}, 1.0, 1.0),
    ("yes", {"yes ": 5, "yes": 5}, 1.0, 1.0),
    ("don't", {"dont": 3, "do not": 7}, 0.9, 0.9),
    ("1.000,5", {"1.0005": 4, "1,0": 6}, 1.0, 1.0),
]


@pytest.mark.parametrize("name", list(METRICS))
def test_a_metric_goes_by_its_name_in_the_registry(name):
    assert METRICS[name].name == name


@pytest.mark.parametrize(("answer", "counts", "vqa", "textvqa"), SCRIPTS)
def test_soft_accuracy_is_that_of_the_original_scripts(answer, counts, vqa, textvqa):
    annotators = [text for text, count in counts.items() for _ in range(count)]
    assert METRICS["vqa"].score(answer, annotators) == pytest.approx(vqa, abs=1e-4)
    assert METRICS["textvqa"].score(answer, annotators) == pytest.approx(textvqa, abs=1e-4)


@pytest.mark.parametrize(
    ("answer", "annotator", "vqa", "handed_in"),
    [("Yes", "yes", 0, 1), ("Yes.", "yes", 0, 1), ("two", "two", 1, 0), ("yes", "yes", 1, 1)],
)
def test_llava_normalises_what_it_hands_in(answer, annotator, vqa, handed_in):
    assert METRICS["vqa"].score(answer, [annotator] * 10) == vqa
    assert METRICS["vqa-llava"].score(answer, [annotator] * 10) == handed_in


@given(WORDS, WORDS)
def test_normalising_twice_changes_nothing(first, second):
    normalised = normalise(f"{first} {second}")
    assert normalise(normalised) == normalised


def test_few_annotators_are_refused():
    for name in ("vqa", "textvqa"):
        assert "at least 4 annotators, this has 3" in METRICS[name].refusal(["a"] * 3)
        assert METRICS[name].refusal(["a"] * 4) is None


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Red", ["red"], 1),
        (" red.\n", ["blue", "Red"], 1),
        ("red..", ["red"], 1),
        ("red .", ["red"], 0),
        ("a  b", ["a b"], 0),
        ("dark red", ["red"], 0),
        ("", ["a"], 0),
    ],
)
def test_exact(answer, expected, right):
    assert METRICS["exact"].score(answer, expected) == right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("It is a red car.", ["red car"], 1),
        ("a car that is red", ["red car"], 0),
        ("concatenate", ["cat"], 0),
        ("No idea?!", ["?!"], 1),
        ("Straße", ["STRASSE"], 1),
        ("", ["cat"], 0),
    ],
)
def test_contains(answer, expected, right):
    assert METRICS["contains"].score(answer, expected) == right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", 1),
        (" B\n", 0),
        ("B.", 0),
        ("B. ", 1),
        ("B. iron", 1),
        ("B\niron", 0),
        ("The answer is B.", 1),
        ("The answer is B", 0),
        ("The answer is B\n", 0),
        ("the answer is B.", 0),
        ("So: The answer is B, iron", 1),
        ("The answer is Bismuth", 1),
        ("The answer is A. The answer is B.", 0),
        ("The answer is B. The answer is B.", 0),
        ("A. The answer is B.", 0),
        ("B iron", 0),
        ("A", 0),
        ("b", 0),
        ("", 0),
    ],
)
def test_a_letter_is_read_as_in_llavas_evaluation(answer, right):
    assert METRICS["choice"].score(answer, ["B"]) == right
    assert METRICS["choice"].refusal(["B"]) is None
    assert METRICS["choice"].refusal(["iron"])


# As the scorer of the Robust Reading Competition gave them: a wholly right answer, one letter off,
# too far off, the best of several, white space and capitals that change the length.
@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("EXIT", ["exit"], 1.0),
        ("exjt", ["exit"], 0.75),
        ("ex", ["exit"], 0.5),
        ("e", ["exit"], 0.0),
        ("spencer", ["spenser", "hunt"], 6 / 7),
        ("", ["a"], 0.0),
        ("", [""], 1.0),
        ("a  b", ["a b"], 1.0),
        ("a  c", ["a b"], 0.75),
        (" ex ", ["exit"], 0.5),
        ("straße", ["strasse"], 5 / 7),
        ("x\n", ["x"], 1.0),
    ],
)
def test_anls(answer, expected, score):
    assert METRICS["anls"].score(answer, expected) == pytest.approx(score)


@given(st.text(alphabet="ab", max_size=6), st.text(alphabet="abc", max_size=6))
def test_edit_distance_is_the_recursion(a, b):
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
        )

    assert edit_distance(a, b) == distance(len(a), len(b))


# As POPE's own script prints them for these eight answers.
ANSWERS = [
    ("Yes", "yes"), ("No, there is not.", "no"), ("There is no dog", "yes"), ("yes. No.", "yes"), ("Nope", "no"),  # noqa: E501
    ("not sure", "no"), ("NO", "no"), ("", "yes"),
]  # fmt: skip


def test_popes_figures():
    metric = METRICS["yesno-f1"]
    parts = np.array([metric.parts(answer, [expected]) for answer, expected in ANSWERS])
    assert parts.sum(axis=0).tolist() == [3, 2, 2, 1]
    figures = dict(zip(metric.figures, metric.combine(parts.sum(axis=0)), strict=True))
    precision, recall = 3 / 5, 3 / 4
    expected = {
        "f1": 2 * precision * recall / (precision + recall),
        "precision": precision,
        "recall": recall,
    }
    assert figures == pytest.approx({**expected, "accuracy": 5 / 8, "yes": 5 / 8})
    assert [metric.is_right(row) for row in parts].count(True) == 5
    assert np.isnan(metric.combine(np.array([0.0, 0.0, 5.0, 0.0]))[0])
    assert metric.refusal(["Yes"]) is None
    assert metric.refusal(["maybe"])


@pytest.mark.parametrize("name", ["exact", "vqa", "vqa-llava", "textvqa", "anls", "contains"])
@given(answer=st.text(max_size=20), expected=st.lists(st.text(max_size=20), min_size=4, max_size=6))
def test_a_score_is_a_share(name, answer, expected):
    score = METRICS[name].score(answer, expected)
    assert 0 <= score <= 1
    # Where all annotators agree their answers stay as they are, while LLaVA's own is normalised.
    if name != "vqa-llava" and expected.count(expected[0]) >= 4:
        assert METRICS[name].score(expected[0], expected) == 1
