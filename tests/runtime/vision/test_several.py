"""Pictures that are arranged otherwise beside others than alone, with a tiny artifact: prompts,
conversations and drawings."""

import numpy as np
import pytest

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.vision.overlay import draw_budgets
from support.noise import picture
from support.tiny_artifact import cut_pictures, write_artifact

K = 3
ONE, TWO = (40, 30), (20, 50)  # (width, height)
SHORT = Sampling(max_new_tokens=3)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "artifact"
    write_artifact(folder, budgets=(K,))
    cut_pictures(folder, 2, 2)
    return folder


@pytest.fixture
def images():
    return [picture(*ONE), picture(*TWO)]


def kept(vlm, images):
    return vlm.generate("what?", images, sampling=SHORT)


def test_a_prompts_pictures_depend_on_their_number(folder, images):
    vlm = VLM.load(folder)
    alone, both = [kept(vlm, [image]) for image in images], kept(vlm, images)
    assert both.tokens_per_picture == [K + 1] * 2
    assert all(answer.tokens_per_picture[0] > K + 1 for answer in alone)
    again = kept(vlm, [images[0], images[0], images[1]])
    assert again.kept_indices == [both.kept_indices[0], *both.kept_indices]
    assert again.tokens_per_picture == [K + 1] * 3


def test_messages_are_one_prompt(folder, images):
    """Whatever turn of a conversation that is given as a whole a picture belongs to."""
    vlm = VLM.load(folder)
    turns = [
        {"role": "user", "content": [{"type": "image", "image": images[0]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "blue"}]},
        {"role": "user", "content": [{"type": "image", "image": images[1]}]},
    ]
    answer = vlm.generate(messages=turns, sampling=SHORT)
    assert answer.tokens_per_picture == [K + 1] * 2
    answer = vlm.generate(messages=turns[:1], sampling=SHORT)
    assert answer.tokens_per_picture[0] > K + 1


def test_a_conversation_answers_as_a_whole_prompt_does(folder, images):
    vlm = VLM.load(folder)
    chat, turns = vlm.chat(), []
    for question, image in [("a?", images[0]), ("b?", None), ("c?", images[1]), ("d?", None)]:
        parts = [] if image is None else [{"type": "image", "image": image}]
        content = [*parts, {"type": "text", "text": question}]
        turns.append({"role": "user", "content": content})
        expected = vlm.generate(messages=turns, sampling=SHORT)
        answer = chat.ask(question, [image] if parts else None, sampling=SHORT)
        assert answer.token_ids == expected.token_ids
        assert answer.kept_indices == expected.kept_indices
        assert answer.tokens_per_picture == expected.tokens_per_picture
        content = [{"type": "text", "text": answer.text.strip()}]
        turns.append({"role": "assistant", "content": content})


def test_most_layouts_make_no_difference(tmp_path, images):
    write_artifact(tmp_path / "artifact", budgets=(K,))
    vlm = VLM.load(tmp_path / "artifact")
    layout = vlm.parts.viewer.layout
    assert layout.several is layout
    (prepared,) = vlm.parts.viewer.prepare_conversation(images[:1], K)
    assert prepared.among(1) is prepared.among(2)


def test_drawings_know_the_number(folder, images):
    vlm = VLM.load(folder)
    for asked in (images[:1], images):
        drawn = draw_budgets(Artifact.open(folder), images[0], [K], pictures=len(asked))[K]
        assert drawn[1] == kept(vlm, asked).kept_indices[0]


def test_a_smaller_cap_leaves_several_as_they_are(folder, images):
    whole, capped = VLM.load(folder), VLM.load(folder, max_tiles=1)
    first, second = kept(whole, images[:1]), kept(capped, images[:1])
    assert len(second.kept_indices[0]) < len(first.kept_indices[0])
    both, few = kept(whole, images), kept(capped, images)
    assert np.array_equal(both.token_ids, few.token_ids)
    assert both.kept_indices == few.kept_indices
