"""The demo by the method that prunes where none is asked for: what it answers at small budgets."""

import json

import numpy as np
import pytest

from pocketvlm import VLM, Artifact
from train_demo.scenes import question_set

# Exact match on 1,000 held-out questions by budget (docs/data/demo-accuracy.json).
PUBLISHED = {36: 0.965, 14: 0.936, 7: 0.886}


@pytest.fixture(scope="module")
def vlm(demo_default):
    return VLM.load(demo_default)


def test_it_is_scope_weighed_by_cls_through_the_gate(demo_default):
    manifest = Artifact.open(demo_default, check="full").manifest
    pruning, parity = manifest.pruning, manifest.parity
    assert (pruning.method, pruning.default_budget, pruning.nested) == ("scope", 36, True)
    assert pruning.options == {"features": "projected", "alpha": 1.0, "weight": "cls"}
    assert parity.passed
    assert parity.vision["kept_equal"]


def test_the_shipped_scenes_are_answered_rightly(vlm, examples):
    rows = [json.loads(line) for line in (examples / "questions.jsonl").read_text().splitlines()]
    assert {row["image"] for row in rows} == {f"scene-{number}.png" for number in (1, 2, 3)}
    for row in rows:
        answer = vlm.generate(row["question"], images=[examples / row["image"]])
        assert answer.text.strip() in row["answers"], row
        assert answer.visual_tokens["after"] == 36


@pytest.mark.parametrize("budget", PUBLISHED)
def test_held_out_questions_are_answered_as_published(vlm, budget):
    asked = list(question_set("test", 140))
    right = [
        vlm.generate(q.text, images=[picture], budget=budget).text.strip() == q.answer
        for picture, q in asked
    ]
    # The published figure is over more questions; four standard errors of this sample are allowed.
    expected = PUBLISHED[budget]
    assert np.mean(right) >= expected - 4 * np.sqrt(expected * (1 - expected) / len(asked))
