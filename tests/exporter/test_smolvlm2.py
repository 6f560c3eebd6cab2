"""SmolVLM2 as it is published, keys and values alike, against transformers' own classes: pictures
of every grid, several of them, turns, and both engines."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from pocketvlm import VLM, PocketVLMError, Sampling
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.quiet import quiet_transformers
from support.gguf_files import HAS_LLAMA_CPP, needs_llama_cpp
from support.processors import processor_of
from support.shared import write_once

N, BUDGET, STEPS = 16, 5, 16
QUESTION = "what is in the picture?"
SIZES = [(100, 50), (40, 84), (90, 90)]  # (width, height)
ENGINES = {"decoder": "both", "gguf_types": ("f32",)} if HAS_LLAMA_CPP else {}
GREEDY = Sampling(max_new_tokens=STEPS)


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-smolvlm2")


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """With every token, and pictures cut as the checkpoint cuts them, into 4 x 4 parts."""
    options = ExportOptions(pruner="none", caps=Caps(max_tiles=16), **ENGINES)
    return write_once(
        tmp_path_factory, "smolvlm2-whole", lambda out: export(str(checkpoint), out, options)
    )


@pytest.fixture(scope="module")
def pruned(checkpoint, tmp_path_factory):
    options = ExportOptions("received-attention", budgets=(BUDGET,), **ENGINES)
    return write_once(
        tmp_path_factory, "smolvlm2-pruned", lambda out: export(str(checkpoint), out, options)
    )


@pytest.fixture(scope="module")
def model(checkpoint):
    with quiet_transformers():
        return AutoModelForImageTextToText.from_pretrained(
            checkpoint, attn_implementation="eager"
        ).eval()


def prepare(folder, *contents):
    """Inputs of transformers' processor for a question, or turns of questions and answers."""
    messages = [
        {
            "role": ("user", "assistant")[number % 2],
            "content": [
                {"type": "image", "image": part}
                if isinstance(part, Image.Image)
                else {"type": "text", "text": part}
                for part in content
            ],
        }
        for number, content in enumerate(contents)
    ]
    with quiet_transformers():
        return processor_of(folder).apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )


@torch.inference_mode()
def answer(model, inputs):
    """(ids, logits before the first) as transformers' class generates."""
    logits = model(**inputs).logits[0, -1].numpy()
    made = model.generate(**inputs, do_sample=False, max_new_tokens=STEPS)
    return made[0, inputs["input_ids"].shape[1] :].tolist(), logits


@pytest.mark.parametrize("images", [[0], [1], [2], [0, 2], [1, 1]], ids=str)
def test_unpruned_it_is_transformers(whole, model, images):
    shown = [picture(*SIZES[image], seed=image) for image in images]
    inputs = prepare(whole, [*shown, QUESTION])
    expected_ids, logits = answer(model, inputs)
    vlm = VLM.load(whole)
    prepared = vlm.parts.viewer.prepare(shown, N)
    pixels = np.concatenate([one.pixel_values for one in prepared])
    theirs = inputs["pixel_values"][0].numpy()
    assert np.abs(pixels - theirs).max() == 0.0
    features = [vlm.parts.viewer.encode(one, cached=False) for one in prepared]
    with torch.inference_mode():
        expected = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    np.testing.assert_allclose(
        np.concatenate([one.inputs_embeds for one in features]),
        torch.cat(list(expected)).reshape(-1, 96),
        atol=1e-4,
    )
    prompter = vlm.parts.prompter
    ids = prompter.place(prompter.encode(QUESTION, len(shown)), [one.ids for one in prepared])
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    ours = vlm.parts.decoder.sequence().prefill(prompter.segments(ids, features))
    assert np.abs(ours - logits).max() <= 1e-4 * max(1, np.abs(logits).max())
    for engine in ("onnx", "llama.cpp") if HAS_LLAMA_CPP else ("onnx",):
        loaded = VLM.load(whole, decoder=engine)
        assert loaded.generate(QUESTION, shown, sampling=GREEDY).token_ids == expected_ids


def test_a_picture_between_words_and_several_turns(whole, model):
    first, second = picture(*SIZES[0], seed=3), picture(*SIZES[2], seed=4)
    vlm = VLM.load(whole)
    inputs = prepare(whole, ["look: ", first, " what?"])
    expected, _ = answer(model, inputs)
    assert vlm.generate("look: <image> what?", [first], sampling=GREEDY).token_ids == expected
    chat = vlm.chat()
    one = chat.ask(QUESTION, [first], sampling=Sampling(max_new_tokens=4))
    two = chat.ask("and here?", [second], sampling=GREEDY)
    three = chat.ask("and again?", [first], sampling=GREEDY)
    turns = [[first, QUESTION], [one.text.strip()], [second, "and here?"]]
    assert two.token_ids == answer(model, prepare(whole, *turns))[0]
    turns += [[two.text.strip()], [first, "and again?"]]
    assert three.token_ids == answer(model, prepare(whole, *turns))[0]


@torch.inference_mode()
def masked(model, inputs, budget):
    """Greedy ids and kept squares where all but the ``budget`` tokens of each tile that are paid
    most are hidden from the decoder, their places left as they are in transformers' own prompt."""
    tiles = inputs["pixel_values"][0]
    kept = []
    for tile in tiles:
        paid = model.model.vision_model(tile[None], output_attentions=True).attentions[-1][0]
        scores = paid.double().mean(dim=(0, 1)).reshape(4, 4, 4, 4).mean(dim=(1, 3)).flatten()
        kept.append(np.sort(np.argsort(-scores.numpy(), kind="stable")[:budget]))
    ids = inputs["input_ids"][0]
    slots = (ids == model.config.image_token_id).nonzero()[:, 0].reshape(-1, N)
    visible = torch.ones_like(ids)
    visible[slots.flatten()] = 0
    for places, at in zip(slots, kept, strict=True):
        visible[places[torch.from_numpy(at)]] = 1
    embeds = model.get_input_embeddings()(ids)
    features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    embeds[slots.flatten()] = torch.cat(list(features)).reshape(-1, embeds.shape[-1])
    embeds, positions = embeds[None], (visible.cumsum(0) - 1).clamp(min=0)[None]
    made = []
    for _ in range(STEPS):
        logits = model(
            inputs_embeds=embeds, attention_mask=visible[None], position_ids=positions
        ).logits[0, -1]
        made.append(int(logits.argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(logits.argmax())[None, None]], 1)
        visible = torch.cat([visible, torch.ones(1, dtype=visible.dtype)])
        positions = torch.cat([positions, positions[:, -1:] + 1], 1)
    return made, kept


@pytest.mark.parametrize("budget", [BUDGET, 2])
def test_pruned_is_as_where_the_other_tokens_are_hidden(pruned, model, budget):
    shown = [picture(*SIZES[0], seed=5), picture(*SIZES[2], seed=6), picture(*SIZES[0], seed=5)]
    made, kept = masked(model, prepare(pruned, [*shown, QUESTION]), budget)
    vlm = VLM.load(pruned)
    given = vlm.generate(QUESTION, shown, budget=budget, sampling=GREEDY)
    tiles = [len(indices) // budget for indices in given.kept_indices]
    expected = np.split(np.array(kept), np.cumsum(tiles)[:-1])
    for ours, theirs in zip(given.kept_indices, expected, strict=True):
        assert ours == (theirs + N * np.arange(len(theirs))[:, None]).ravel().tolist()
    assert given.token_ids == made[: len(given.token_ids)]
    assert len(given.token_ids) == STEPS or given.finish_reason == "stop"
    chat = vlm.chat(budget=budget)  # from kept features, twice
    for _ in range(2):
        assert chat.ask(QUESTION, shown, sampling=GREEDY).token_ids == given.token_ids
        chat.reset()


@needs_llama_cpp
def test_llama_cpp_answers_pruned_pictures_alike(pruned):
    shown = [picture(*SIZES[1], seed=7), picture(*SIZES[2], seed=8)]
    answers = [
        VLM.load(pruned, decoder=engine).generate(QUESTION, shown, sampling=GREEDY)
        for engine in ("onnx", "llama.cpp")
    ]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].kept_indices == answers[1].kept_indices


def test_the_published_settings_reach_the_artifact(pruned):
    stated = json.loads((pruned / "preprocessor_config.json").read_text())
    assert stated["size"] == {"longest_edge": 224}  # four parts by default
    assert stated["video_sampling"]["max_frames"] == 64
    assert VLM.load(pruned).artifact.manifest.pruning.tokens_before == N


def test_clips_are_refused_in_a_line_that_says_what_is_read(pruned, tmp_path):
    vlm = VLM.load(pruned)
    frames = [np.zeros((8, 8, 3), np.uint8)]
    for call in (
        lambda: vlm.generate(QUESTION, videos=[frames]),
        lambda: vlm.chat().ask(QUESTION, videos=[frames]),
        lambda: vlm.generate(
            messages=[{"role": "user", "content": [{"type": "video", "video": frames}]}]
        ),
    ):
        with pytest.raises(PocketVLMError, match="pictures") as caught:
            call()
        assert "\n" not in str(caught.value)
