"""From a picture file to greedy tokens: the exported tiny checkpoint against transformers with the
same pruning."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.cli import main
from pocketvlm.layouts import open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.vision.encoder import VisionEncoder

STEPS = 12
PROMPT = "what is in the picture?"


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return LlavaForConditionalGeneration.from_pretrained(
        tiny_checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def processor(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph-like picture in JPEG, held upright by its EXIF orientation, as phones write
    them."""
    noise = np.random.default_rng(5).normal(size=(9, 12, 3)).cumsum(axis=0).cumsum(axis=1)
    noise = ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(path, exif=exif)
    return path


def user(text, pictures):
    return {
        "role": "user",
        "content": [{"type": "image"}] * pictures + [{"type": "text", "text": text}],
    }


def with_picture(part, picture):
    return part | {"image": picture} if part["type"] == "image" else part


def pruned_generate(model, processor, messages, pictures, budget):
    """Greedy tokens and kept patches by FasterVLM from full eager attention maps (arXiv
    2412.01818)."""
    from transformers.image_utils import load_image

    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(
        images=[load_image(str(p)) for p in pictures], text=text, return_tensors="pt"
    )
    with torch.no_grad():
        tower = model.model.vision_tower(
            inputs["pixel_values"],
            output_attentions=True,
            output_hidden_states=True,
            return_dict=True,
        )
        scores = tower.attentions[-2][:, :, 0, 1:].mean(dim=1)
        features = model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])
        kept = [
            np.sort(np.argsort(-row, kind="stable")[:budget]) for row in scores.double().numpy()
        ]
        visual = torch.cat(
            [row[torch.tensor(indices)] for row, indices in zip(features, kept, strict=True)]
        )
        # Each picture's patches become one run of image tokens, of which the budget stays.
        ids = inputs["input_ids"][0]
        image = model.config.image_token_id
        slot = torch.cumsum(ids == image, 0) - 1
        ids = ids[(ids != image) | (slot % scores.shape[1] < budget)]
        embeddings = model.get_input_embeddings()(ids)
        embeddings[ids == image] = visual
        generated = model.generate(
            inputs_embeds=embeddings[None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=STEPS,
            do_sample=False,
        )
    return generated[0].tolist(), [indices.tolist() for indices in kept]


@pytest.mark.parametrize("budget", [1, 4, 9, 13, 18])
@pytest.mark.parametrize("count", [1, 2])
def test_tokens_and_kept_patches_equal_those_of_transformers(
    model, processor, tiny_export, photo, budget, count
):
    vlm = VLM.load(tiny_export, budget=18)
    answer = vlm.generate(
        PROMPT, [photo] * count, budget=budget, sampling=Sampling(max_new_tokens=STEPS)
    )
    token_ids, kept = pruned_generate(
        model, processor, [user(PROMPT, count)], [photo] * count, budget
    )
    assert answer.kept_indices == kept
    assert answer.token_ids == token_ids
    assert answer.text == processor.decode(token_ids, skip_special_tokens=True)


def test_a_conversation_equals_that_of_transformers(model, processor, tiny_export, photo, tmp_path):
    """Every turn against the whole conversation given to transformers at once, which keeps nothing
    between turns."""
    with Image.open(photo) as picture:
        picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "other.png")
    chat = VLM.load(tiny_export).chat()
    messages, images = [], []
    for text, pictures in [
        (PROMPT, [photo]),
        ("and a circle?", []),
        (PROMPT, [tmp_path / "other.png"]),
        ("red?", []),
    ]:
        images += pictures
        messages.append(user(text, len(pictures)))
        answer = chat.ask(text, pictures, sampling=Sampling(max_new_tokens=STEPS))
        token_ids, kept = pruned_generate(model, processor, messages, images, 9)
        assert answer.token_ids == token_ids
        assert answer.kept_indices == kept
        reply = processor.decode(token_ids, skip_special_tokens=True).strip()
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
        assert chat.messages == messages


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": STEPS, "repetition_penalty": 0.8},
        {"suppress_tokens": list(range(3, 120))},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 1.1, "min_new_tokens": 5},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_what_changes_greedy_answers_does_so_as_in_generate(
    model, processor, tiny_export, settings
):
    text = processor.apply_chat_template([user(PROMPT, 0)], add_generation_prompt=True)
    inputs = processor(text=text, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS, **settings)
    expected = ids[0, inputs["input_ids"].shape[1] :].tolist()
    answer = VLM.load(tiny_export).generate(
        PROMPT, sampling=Sampling(max_new_tokens=STEPS, **settings)
    )
    assert answer.token_ids == expected


def test_messages_with_a_system_turn_equal_those_of_transformers(
    model, processor, tiny_export, photo
):
    """A system turn, and pictures between texts, as one request."""
    system = {"role": "system", "content": [{"type": "text", "text": "Answer briefly."}]}
    first, second = user(PROMPT, 1), user("and here?", 1)
    reply = {"role": "assistant", "content": [{"type": "text", "text": "a square"}]}
    messages = [system, first, reply, second]
    token_ids, kept = pruned_generate(model, processor, messages, [photo, photo], 9)
    asked = [
        {
            "role": turn["role"],
            "content": [
                part | {"image": photo} if part["type"] == "image" else part
                for part in turn["content"]
            ],
        }
        for turn in messages
    ]
    vlm, sampling = VLM.load(tiny_export), Sampling(max_new_tokens=STEPS)
    answer = vlm.generate(messages=asked, sampling=sampling)
    assert (answer.token_ids, answer.kept_indices) == (token_ids, kept)
    streamed = "".join(vlm.stream(messages=asked, sampling=sampling))
    assert streamed == answer.text


def test_any_budget_is_served_exactly_by_the_larger_graph(tiny_export, photo):
    """The graph exported at 9 against the one at 18 narrowed to 9, down to the features."""
    artifact = Artifact.open(tiny_export)
    pixel_values = open_layout(artifact).cut(open_picture(photo)).pixel_values
    narrowed = VisionEncoder.open(artifact, budget=18).encode(pixel_values).narrow(9)
    exported = VisionEncoder.open(artifact, budget=9).encode(pixel_values)
    np.testing.assert_array_equal(narrowed.kept_indices, exported.kept_indices)
    np.testing.assert_allclose(narrowed.kept_scores, exported.kept_scores, rtol=1e-5)
    np.testing.assert_allclose(narrowed.image_features, exported.image_features, atol=1e-5)


def test_half_precision_is_chosen_by_name(tiny_export, photo):
    half = VLM.load(tiny_export, vision_precision="fp16", decoder_precision="fp16")
    full = VLM.load(tiny_export)
    answers = [
        vlm.generate(PROMPT, [photo], sampling=Sampling(max_new_tokens=1)) for vlm in (half, full)
    ]
    assert answers[0].visual_tokens == answers[1].visual_tokens
    overlap = set(answers[0].kept_indices[0]) & set(answers[1].kept_indices[0])
    assert len(overlap) >= 8


def test_the_commands_agree_with_each_other(tiny_export, photo, tmp_path):
    folder = shutil.copytree(tiny_export, tmp_path / "artifact")
    runner = CliRunner()
    ask = [
        "run",
        str(folder),
        "--image",
        str(photo),
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "3",
        "--json",
    ]
    draw = [
        "inspect",
        str(folder),
        "--image",
        str(photo),
        "--overlay",
        str(tmp_path / "kept.png"),
        "--json",
    ]
    answer, drawn = (json.loads(runner.invoke(main, arguments).stdout) for arguments in (ask, draw))
    assert answer["kept_indices"] == [drawn["kept_indices"]]
    assert runner.invoke(main, ["verify", str(folder)]).exit_code == 0
