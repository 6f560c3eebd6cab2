"""The demo, whole: what the checkpoint is, and that the exported folder answers as Hugging Face
does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from demo_reference.answers import PrunedModel, fastervlm, generate_answers
from pocketvlm import VLM
from train_demo.scenes import question_set

FIGURES = Path(__file__).parents[2] / "docs" / "data" / "demo-accuracy.json"


@pytest.fixture(scope="module")
def hugging_face(demo_checkpoint):
    model = LlavaForConditionalGeneration.from_pretrained(
        demo_checkpoint, dtype=torch.float32
    ).eval()
    return model, AutoProcessor.from_pretrained(demo_checkpoint)


@pytest.fixture(scope="module")
def vlm(demo_artifact):
    return VLM.load(demo_artifact, budget=144)


def test_the_checkpoint_takes_the_path_of_llava_1_5(demo_checkpoint):
    config = AutoConfig.from_pretrained(demo_checkpoint)
    text = config.text_config
    assert (config.model_type, config.vision_config.model_type, text.model_type) == (
        "llava",
        "clip_vision_model",
        "llama",
    )
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert text.num_key_value_heads < text.num_attention_heads
    assert text.hidden_size % 256 == 0
    assert sum(file.stat().st_size for file in demo_checkpoint.iterdir()) <= 12e6


def test_unpruned_answers_equal_generate(vlm, hugging_face):
    asked = list(question_set("validation", 70))
    expected = generate_answers(*hugging_face, asked)
    answers = [
        vlm.generate(question.text, images=[picture]).text.strip() for picture, question in asked
    ]
    assert answers == expected


def test_held_out_questions_are_answered_as_published(vlm):
    published = json.loads(FIGURES.read_text())["engines"]["transformers fp32"] / 100
    asked = list(question_set("test", 210))
    right = [
        vlm.generate(q.text, images=[picture]).text.strip() == q.answer for picture, q in asked
    ]
    # The published figure is over more questions; four standard errors of this sample are allowed.
    assert np.mean(right) >= published - 4 * np.sqrt(published * (1 - published) / len(asked))


def test_pruned_tokens_and_kept_patches_equal_hugging_face(vlm, hugging_face):
    asked = list(question_set("validation", 42))
    pruned = PrunedModel(*hugging_face)
    features, scores = pruned.encode([picture for picture, _ in asked])
    end = hugging_face[1].tokenizer.eos_token_id
    for budget in (36, 14, 7):
        kept = np.stack([fastervlm(row, budget) for row in scores])
        expected = pruned.tokens(features, kept, [question for _, question in asked])
        for (picture, question), row, tokens in zip(asked, kept, expected, strict=True):
            answer = vlm.generate(question.text, images=[picture], budget=budget)
            assert answer.kept_indices == [row.tolist()]
            assert answer.token_ids == [*tokens[: tokens.index(end)], end]


def test_a_budget_from_the_large_graph_is_the_small_graph(vlm, demo_artifact):
    small = VLM.load(demo_artifact, budget=36)
    for picture, question in question_set("validation", 14):
        ours, theirs = (
            v.generate(question.text, images=[picture], budget=36) for v in (vlm, small)
        )
        assert (ours.token_ids, ours.kept_indices) == (theirs.token_ids, theirs.kept_indices)


def test_several_pictures_or_none_are_answered(vlm, examples):
    pictures = [examples / "scene-1.png", examples / "scene-2.png"]
    both = vlm.generate("Describe <image> and <image>.", images=pictures)
    assert both.visual_tokens == {"before": 288, "after": 288}
    assert vlm.generate("How many objects are there?").kept_indices == []
