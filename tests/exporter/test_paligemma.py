"""PaliGemma from checkpoint to answer: both decoders, prompts of every form, held against
transformers' whole class and its own processor."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PaliGemmaProcessor

from pocketvlm import VLM, Sampling
from pocketvlm.artifact.specs import Pruning
from pocketvlm.cli import main
from pocketvlm.errors import CheckpointError, RequestError
from pocketvlm.text.streaming import Detokenizer
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.loading import inspect_checkpoint, open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import find_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.pictures import gate_pictures
from pocketvlm_export.verification.vision_reference import vision_reference
from support.internvl import vision_outputs
from support.methods import KEEPING
from support.noise import picture
from support.paligemma import Theirs

N, EDGE, BUDGET = 36, 42, 12
QUESTION = "what is in the picture?"
NEAR = 1e-4  # of the largest logit
PROMPTS = [
    (QUESTION, 1),
    (QUESTION, 2),
    ("is <image> like <image> ?", 2),
    ("<image><image>detect circle ; square", 2),
    ("one line\nand another\n", 1),
    ("where is <loc0012><seg003>, <eos> or  two spaces?", 1),
    ("", 1),
    (" ", 1),
    ("caption <image>", 1),
]


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-paligemma")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return Theirs(checkpoint)


@pytest.fixture(scope="module")
def unpruned(checkpoint, tmp_path_factory):
    """(artifact, report) of the Gemma 2 preset in all precisions; read only."""
    folder = tmp_path_factory.mktemp("paligemma") / "unpruned"
    options = ExportOptions(
        "none",
        vision_precisions=("fp32", "int8"),
        decoder_precisions=("fp32", "int8", "int4"),
    )
    return folder, export(str(checkpoint), folder, options)


@pytest.fixture(scope="module")
def pruned(make_tiny, tmp_path_factory):
    """(checkpoint, artifact, report) of the Gemma preset by its default method; read only."""
    checkpoint = make_tiny("tiny-paligemma-gemma")
    folder = tmp_path_factory.mktemp("paligemma") / "pruned"
    return checkpoint, folder, export(str(checkpoint), folder, ExportOptions(budgets=(BUDGET,)))


def ask(vlm, prompt, images, **options):
    return vlm.generate(prompt, images, sampling=Sampling(max_new_tokens=16), **options)


def prompted(vlm, prompt, images, budget):
    """(ids, pixels, features) of a prompt, and the logits before its answer."""
    viewer, prompter = vlm.parts.viewer, vlm.parts.prompter
    pictures = viewer.prepare(images, budget)
    pixels = np.concatenate([each.pixel_values for each in pictures])
    features = [viewer.encode(each, cached=False) for each in pictures]
    ids = prompter.place(prompter.encode(prompt, len(images)), [each.ids for each in pictures])
    logits = vlm.parts.decoder.sequence().prefill(prompter.segments(ids, features))
    rows = np.concatenate([each.inputs_embeds for each in features])
    return ids.tolist(), pixels, rows, logits


def difference(logits, expected):
    """The largest, as a part of the largest logit."""
    return np.abs(logits - expected).max() / max(1, np.abs(expected).max())


@pytest.mark.parametrize(("prompt", "count"), PROMPTS)
def test_unpruned_it_is_transformers(unpruned, theirs, prompt, count):
    vlm = VLM.load(unpruned[0])
    images = [picture(60 + 20 * number, 50) for number in range(count)]
    inputs = theirs.prepare(prompt, images, N)
    expected_ids, expected_logits = theirs.answer(inputs)
    ids, pixels, features, logits = prompted(vlm, prompt, images, N)
    assert ids == inputs["input_ids"][0].tolist()
    np.testing.assert_array_equal(pixels, inputs["pixel_values"].numpy())
    expected = theirs.features(inputs["pixel_values"]).flatten(0, 1)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert difference(logits, expected_logits) <= NEAR
    answer = ask(vlm, prompt, images)
    assert answer.token_ids == expected_ids
    assert answer.text == theirs.processor.decode(expected_ids, skip_special_tokens=True)
    assert answer.visual_tokens == {"before": count * N, "after": count * N}


@pytest.mark.parametrize(("prompt", "count"), PROMPTS[:4])
def test_pruned_it_is_transformers_without_the_dropped_tokens(pruned, prompt, count):
    checkpoint, folder, _ = pruned
    theirs, vlm = Theirs(checkpoint), VLM.load(folder)
    images = [picture(60 + 20 * number, 50) for number in range(count)]
    inputs = theirs.prepare(prompt, images, BUDGET)
    answer = ask(vlm, prompt, images)
    kept = [np.array(each) for each in answer.kept_indices]
    expected_ids, expected_logits = theirs.answer_kept(inputs, kept)
    assert answer.token_ids == expected_ids
    ids, _, _, logits = prompted(vlm, prompt, images, BUDGET)
    assert ids == inputs["input_ids"][0].tolist()
    assert difference(logits, expected_logits) <= NEAR
    assert answer.tokens_per_picture == [BUDGET] * count


@pytest.mark.parametrize("name", KEEPING)
def test_every_method_keeps_what_its_oracle_keeps(checkpoint, theirs, name):
    opened, pixels = open_checkpoint(str(checkpoint)), gate_pictures(2, (EDGE, EDGE))
    if "cls_row" in find_pruner(name).reads:
        with pytest.raises(RequestError, match="has no \\[CLS\\] token"):
            make_plan(opened, ExportOptions(name))
        return
    pruner = make_plan(opened, ExportOptions(name)).pruner
    budget = BUDGET if pruner.prunes else N
    pruning = Pruning(name, N, (budget,), budget, pruner.options)
    features, indices, _ = vision_outputs(opened, pruner, budget, pixels)
    with torch.inference_mode():
        reference = vision_reference(opened, pruning, pixels)[budget]
    np.testing.assert_array_equal(indices, reference.kept_indices)
    for number, pixel_values in enumerate(torch.from_numpy(pixels)):
        expected = theirs.features(pixel_values[None])[0].numpy()[indices[number]]
        np.testing.assert_allclose(features[number], expected, atol=1e-5)


def test_every_precision_is_measured(unpruned):
    folder, report = unpruned
    figures = report.manifest.parity.by_precision
    assert {"vision", "decoder", "embed"} <= set(figures["int8"])
    assert "decoder" in figures["int4"]
    assert report.manifest.requires["onnxruntime"] == ">=1.30"
    for precision in ("int8", "int4"):
        vlm = VLM.load(folder, decoder_precision=precision, vision_precision="int8")
        assert ask(vlm, QUESTION, [picture(60, 50)]).visual_tokens["after"] == N


def test_features_are_kept_and_prompts_are_not(pruned):
    """The same picture twice in a prompt, and again with another question."""
    vlm, image = VLM.load(pruned[1]), picture(60, 50)
    first = ask(vlm, QUESTION, [image, image])
    second = ask(vlm, QUESTION, [image, image])
    assert first.token_ids == second.token_ids
    assert first.prompt_tokens == second.prompt_tokens
    assert second.prompt_tokens["cached"] == 0
    viewer = vlm.parts.viewer
    one, two = (
        viewer.encode(viewer.prepare([image], BUDGET)[0], cached=True).inputs_embeds
        for _ in range(2)
    )
    assert np.shares_memory(one, two)
    other = ask(vlm, "caption en", [image])
    assert other.token_ids == ask(VLM.load(pruned[1]), "caption en", [image]).token_ids


def test_a_conversation_is_one_question(pruned):
    vlm, image = VLM.load(pruned[1]), picture(60, 50)
    chat = vlm.chat()
    sampling = Sampling(max_new_tokens=4)
    assert chat.ask(QUESTION, [image], sampling=sampling).token_ids
    with pytest.raises(RequestError, match="answers one question at a time") as refusal:
        chat.ask("and what else?", sampling=sampling)
    assert "\n" not in str(refusal.value)
    with pytest.raises(RequestError, match="without a system message"):
        vlm.generate(
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "image", "image": image}]},
            ]
        )


def test_messages_are_prompts(pruned):
    vlm, image = VLM.load(pruned[1]), picture(60, 50)
    content = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    answer = vlm.generate(
        messages=[{"role": "user", "content": content}], sampling=Sampling(max_new_tokens=16)
    )
    assert answer.token_ids == ask(vlm, QUESTION, [image]).token_ids


def test_the_page_for_other_clients(pruned):
    _, folder, report = pruned
    facts = json.loads((folder / "using.json").read_text())
    assert facts["first_position"] == report.manifest.decoder.first_position == 1
    assert "picture_ids" in facts["graphs"]["decoder"]["inputs"]
    assert not facts["prompt"]["adds_special_tokens"]
    assert facts["prompt"]["text"] == "<image><bos>" + facts["prompt"]["question"] + "\n"
    assert "cache's length plus 1" in (folder / "USING.md").read_text()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["add_bos_token"] is False


def test_a_fine_tune_as_transformers_5_saves_it(checkpoint, theirs, tmp_path):
    """Other names of weights, and the image processor inside processor_config.json."""
    with quiet_transformers():
        theirs.model.save_pretrained(tmp_path)
        PaliGemmaProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path)
    before, after = open_checkpoint(str(checkpoint)), open_checkpoint(str(tmp_path))
    assert after.warnings == make_plan(after, ExportOptions()).warnings == ()
    assert before.weights.names.keys() == after.weights.names.keys()
    for name in ("decoder.model.embed_tokens.weight", "projector.linear.weight"):
        assert torch.equal(before.weights.tensor(name), after.weights.tensor(name))
    for prompt in ("", QUESTION):
        texts = {
            opened.family.reference_prompt(opened.source.folder, prompt)
            for opened in (before, after)
        }
        assert texts == {f"<image><bos>{prompt}\n"}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 9, 300, 447, 448, 960, 1471, 1472, 1600, 1650])))
def test_places_and_outlines_are_text_and_come_as_they_do_in_transformers(theirs, ids):
    pieces = Detokenizer(theirs.processor.tokenizer.backend_tokenizer)
    text = "".join([pieces.push(each) for each in ids]) + pieces.finish()
    assert text == theirs.processor.decode(ids, skip_special_tokens=True)
    assert ("<loc0000>" in text) == (448 in ids)


def edited(make_tiny, tmp_path, file, **values):
    """A checkpoint with other settings; one that is None is left out."""
    folder = make_tiny("tiny-paligemma")
    path = folder / file
    config = {**(json.loads(path.read_text()) if path.is_file() else {}), **values}
    path.write_text(json.dumps({key: each for key, each in config.items() if each is not None}))
    return str(folder)


@pytest.mark.parametrize(
    ("file", "values", "reason"),
    [
        ("config.json", {"projection_dim": 32}, r"projection_dim is 32: expected 64"),
        (
            "config.json",
            {"vision_config": {"model_type": "clip_vision_model"}},
            r"the vision tower is a clip_vision_model.*expected siglip_vision_model",
        ),
        (
            "config.json",
            {"text_config": {"model_type": "gemma3_text"}},
            r"the decoder is a gemma3_text.*expected one of gemma, gemma2",
        ),
        ("chat_template.json", {"chat_template": "{{ messages }}"}, "has a chat template"),
        ("preprocessor_config.json", {"image_seq_length": None}, "no image_seq_length.*add it: 36"),
    ],
)
def test_what_is_not_supported_is_refused(make_tiny, tmp_path, file, values, reason):
    folder = edited(make_tiny, tmp_path, file, **values)
    with pytest.raises(CheckpointError, match=reason) as refusal:
        inspect_checkpoint(folder)
    assert "\n" not in str(refusal.value)


def test_another_count_of_tokens_is_warned_of(make_tiny, tmp_path):
    folder = edited(make_tiny, tmp_path, "preprocessor_config.json", image_seq_length=49)
    (warning,) = inspect_checkpoint(folder).warnings
    assert warning.startswith("preprocessor_config.json counts 49 tokens of a picture")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--decoder", "llama.cpp"], "all tokens of a prompt attend to each other"),
        (["--decoder-stage", "1:9"], "dropping tokens between layers"),
        (["--pruner", "fastervlm"], "has no [CLS] token"),
        (["--max-tiles", "2"], "does not apply to paligemma checkpoints"),
    ],
)
def test_options_it_has_not_are_refused_in_a_line(checkpoint, tmp_path, flags, reason):
    command = ["export", str(checkpoint), "-o", str(tmp_path / "out"), "--dry-run", *flags]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
