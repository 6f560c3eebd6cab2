"""LLaVA-OneVision from checkpoint to answer: one picture and several, both engines, held against
transformers' whole class and its own processor."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.cli import main
from pocketvlm.errors import CheckpointError, RequestError
from pocketvlm.vision.overlay import draw_budgets
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.planning import make_plan
from support.checkpoints import edit_json, edit_pictures
from support.gguf_files import HAS_LLAMA_CPP
from support.internvl import load_exact
from support.llava_onevision import N, Theirs
from support.noise import picture
from support.shared import write_once

QUESTION = "what is in the picture?"
BOTH = "both" if HAS_LLAMA_CPP else "onnx"
ENGINES = ["onnx", *(["llama.cpp"] if HAS_LLAMA_CPP else [])]
SMALL, WIDE, LARGE = (60, 50), (170, 115), (600, 450)  # (width, height)
BUDGET = 6
NEAR = 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-llava-onevision")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return Theirs(checkpoint, 12)


@pytest.fixture(scope="module")
def unpruned(checkpoint, tmp_path_factory):
    """Up to twelve parts, so that the map of a large picture is shrunk; read only."""
    options = ExportOptions(
        "none",
        caps=Caps(max_tiles=12),
        decoder=BOTH,
        gguf_types=("f32",) if HAS_LLAMA_CPP else (),
    )
    return write_once(
        tmp_path_factory, "onevision-none", lambda to: export(str(checkpoint), to, options)
    )


@pytest.fixture(scope="module")
def pruned(checkpoint, tmp_path_factory):
    """By received attention, of at most four parts, in every kind of precision; read only."""
    options = ExportOptions(
        "received-attention",
        budgets=(BUDGET,),
        decoder=BOTH,
        gguf_types=("f32", "q8_0") if HAS_LLAMA_CPP else (),
        vision_precisions=("fp32", "int8"),
        decoder_precisions=("fp32", "int8", "int4"),
    )
    return write_once(
        tmp_path_factory, "onevision-pruned", lambda to: export(str(checkpoint), to, options)
    )


def ask(vlm, prompt, images, **options):
    return vlm.generate(prompt, images, sampling=Sampling(max_new_tokens=16), **options)


def prompted(vlm, prompt, images, budget):
    """(ids, pixels by picture, features by picture) of a prompt, and the logits before its
    answer."""
    viewer, prompter = vlm.parts.viewer, vlm.parts.prompter
    pictures = viewer.prepare(images, budget)
    pixels = [each.pixel_values for each in pictures]
    features = [viewer.encode(each, cached=False) for each in pictures]
    ids = prompter.place(prompter.encode(prompt, len(images)), [each.ids for each in pictures])
    logits = vlm.parts.decoder.sequence().prefill(prompter.segments(ids, features))
    return ids.tolist(), pixels, [each.inputs_embeds for each in features], logits


def difference(logits, expected):
    """The largest, as a part of the largest logit."""
    return np.abs(logits - expected).max() / max(1, np.abs(expected).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("prompt", "sizes"),
    [
        (QUESTION, [SMALL]),
        (QUESTION, [WIDE]),
        (QUESTION, [LARGE]),  # 3 x 4 parts, shrunk
        (QUESTION, [WIDE, SMALL]),
        ("is <image> like <image>?", [LARGE, LARGE]),
        (QUESTION, []),
    ],
)
def test_unpruned_it_is_transformers(unpruned, theirs, engine, prompt, sizes):
    vlm = load_exact(unpruned, engine)
    images = [picture(*size) for size in sizes]
    if "<image>" in prompt:  # the template puts pictures first, unless the text has the token
        inputs = theirs.placed(prompt, images)
    else:
        inputs = theirs.prepare([(prompt, images)])
    ids, pixels, features, logits = prompted(vlm, prompt, images, N)
    assert ids == inputs["input_ids"][0].tolist()
    if images:
        for ours, expected in zip(pixels, theirs.tiles(inputs), strict=True):
            np.testing.assert_array_equal(ours, expected.numpy())
        for ours, expected in zip(features, theirs.packed(inputs), strict=True):
            np.testing.assert_allclose(ours, expected, atol=2e-5)
    expected_ids, expected_logits = theirs.answer(inputs)
    assert difference(logits, expected_logits) <= NEAR
    answer = ask(vlm, prompt, images)
    assert answer.token_ids == expected_ids
    slots = sum(map(len, features))
    assert answer.visual_tokens == {"before": slots, "after": slots}


def test_a_large_picture_is_shrunk(unpruned):
    answer = ask(VLM.load(unpruned), QUESTION, [picture(*LARGE)])
    # 15 x 20 places, sqrt(300 / 225) times too many along an edge
    assert answer.visual_tokens["after"] == N + 12 * (17 + 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sizes", [[SMALL], [LARGE], [WIDE, SMALL, WIDE]])
def test_pruned_it_answers_as_if_dropped_tokens_were_masked(pruned, checkpoint, engine, sizes):
    vlm, theirs = load_exact(pruned, engine), Theirs(checkpoint, 4)
    images = [picture(*size) for size in sizes]
    inputs = theirs.prepare([(QUESTION, images)])
    for budget in (BUDGET, 3):
        kept = [
            [
                N * number + at
                for number, tile in enumerate(tiles)
                for at in theirs.kept(tile, budget)
            ]
            for tiles in theirs.tiles(inputs)
        ]
        expected_ids, expected_logits = theirs.answer_kept(inputs, kept)
        answer = ask(vlm, QUESTION, images, budget=budget)
        assert answer.kept_indices == kept
        assert answer.token_ids == expected_ids
        *_, logits = prompted(vlm, QUESTION, images, budget)
        assert difference(logits, expected_logits) <= NEAR
        if len(images) > 1:
            assert answer.tokens_per_picture == [budget + 1] * 3


def test_pictures_of_a_conversation_are_read_as_transformers_reads_all_of_it(pruned, checkpoint):
    """A second picture makes squares of both, and what was read of the first is read again."""
    vlm, theirs = VLM.load(pruned), Theirs(checkpoint, 4)
    chat, one, two = vlm.chat(), picture(*WIDE), picture(*SMALL)
    sampling = Sampling(max_new_tokens=5)
    turns: list = []
    forms: dict = {}
    cached = []
    for question, images in [("what?", [one]), ("why?", []), ("and?", [two]), ("so?", [])]:
        turns.append((question, images))
        inputs = theirs.prepare(turns)
        kept = [
            [
                N * number + at
                for number, tile in enumerate(tiles)
                for at in theirs.kept(tile, BUDGET)
            ]
            for tiles in theirs.tiles(inputs)
        ]
        answer = chat.ask(question, images, sampling=sampling)
        assert answer.kept_indices == kept
        assert answer.token_ids == theirs.answer_kept(inputs, kept, 5)[0]
        forms[question] = answer.tokens_per_picture
        cached.append(answer.prompt_tokens["cached"])
        turns.append(answer.text)
    assert forms["what?"] == forms["why?"] != [BUDGET + 1]
    assert forms["and?"] == forms["so?"] == [BUDGET + 1] * 2
    head = vlm.parts.prompter.encode(QUESTION, 1).tolist().index(vlm.parts.prompter.image_token_id)
    assert cached[0] == 0
    assert cached[1] > forms["what?"][0]
    assert cached[2] <= head  # the pictures are others than before
    assert cached[3] > 2 * BUDGET


def test_a_picture_that_is_left_alone_is_cut_again(unpruned):
    """Where the context is full the latest pictures stay: here one, as two take more than half."""
    vlm, sampling = VLM.load(unpruned, context=102), Sampling(max_new_tokens=2)
    chat, square = vlm.chat(), N + 1
    alone = chat.ask("a?", [picture(20, 20)], sampling=sampling).tokens_per_picture
    assert alone == [N + N + 5]
    counts = [chat.ask("b?", [picture(22, 21)], sampling=sampling).tokens_per_picture]
    while len(counts[-1]) > 1:
        counts.append(chat.ask("c?", sampling=sampling).tokens_per_picture)
    assert counts[0] == [square, square]
    assert counts[-1] == alone
    assert chat.dropped_turns
    assert vlm.chat().ask("c?", [picture(22, 21)], sampling=sampling).tokens_per_picture == alone


def test_features_alone_and_beside_others_are_kept_apart(pruned, tmp_path):
    one, two = picture(*WIDE), picture(*SMALL)
    plain, caching = VLM.load(pruned), VLM.load(pruned, feature_cache=tmp_path / "features")
    for images in ([one], [one, two], [one], [two, one], [one, one]):
        expected = ask(plain, QUESTION, images)
        answer = ask(caching, QUESTION, images)
        assert answer.token_ids == expected.token_ids
        assert answer.kept_indices == expected.kept_indices
    files = list((tmp_path / "features").rglob("*.safetensors"))
    assert len(files) == 3  # the first alone, and both beside others


def test_every_precision_is_measured(pruned):
    manifest = Artifact.open(pruned).manifest
    figures = manifest.parity.by_precision
    assert manifest.parity.vision["several"]["passed"]
    assert {"vision", "decoder"} <= set(figures["int8"])
    assert "decoder" in figures["int4"]
    images = [picture(*WIDE), picture(*SMALL)]
    for precision in ("int8", "int4"):
        vlm = VLM.load(pruned, decoder_precision=precision, vision_precision="int8")
        assert ask(vlm, QUESTION, images).tokens_per_picture == [BUDGET + 1] * 2
    if HAS_LLAMA_CPP:
        assert figures["f32"]["greedy_equal"] == 16
        assert figures["q8_0"]["cosine"] > 0.99


def test_commands_describe_and_draw_it(pruned, tmp_path):
    Image.fromarray(np.asarray(picture(*WIDE))).save(tmp_path / "photo.png")
    command = ["inspect", str(pruned), "--image", str(tmp_path / "photo.png")]
    shown = CliRunner().invoke(main, [*command, "--overlay", str(tmp_path / "kept.png")])
    assert shown.exit_code == 0, shown.output
    assert "several pictures of a prompt are one square tile each" in shown.stdout
    assert (tmp_path / "kept.png").is_file()
    artifact = Artifact.open(pruned)
    alone, beside = (
        draw_budgets(artifact, tmp_path / "photo.png", [BUDGET], pictures=count)[BUDGET]
        for count in (1, 2)
    )
    vlm, image = VLM.load(pruned), picture(*WIDE)
    assert alone[1] == ask(vlm, QUESTION, [image]).kept_indices[0]
    assert beside[1] == ask(vlm, QUESTION, [image, image]).kept_indices[0]
    assert alone[0].size != beside[0].size


def test_the_page_for_other_languages_says_how_several_are_read(pruned):
    page = (pruned / "USING.md").read_text()
    assert "Where a prompt has several pictures, none of them is cut" in page
    assert "[127, 127, 127]" in page
    assert "bilinear interpolation" not in page  # of at most four parts nothing is shrunk


def test_one_whole_tile_is_in_words_that_transformers_js_has(checkpoint):
    """Its LLaVA's: patches, and a correction for those that are dropped."""
    plan = make_plan(
        inspect_checkpoint(str(checkpoint)), ExportOptions(budgets=(BUDGET,), layout="whole")
    )
    assert plan.spec.caps.given == {}
    assert plan.totals() == {BUDGET: {"1x1": BUDGET}}
    family, stated = (
        plan.spec.family,
        json.loads((checkpoint / "processor_config.json").read_text()),
    )
    processor = family.processor_config(stated, plan.spec, plan.layout, BUDGET)
    pictures = family.image_processor_config({}, plan.spec, plan.layout)
    assert pictures["processor_class"] == "LlavaProcessor"
    assert not pictures["do_pad"]
    assert processor["processor_class"] == "LlavaOnevisionProcessor"
    edge = pictures["size"]["height"] // processor["patch_size"]
    assert edge**2 + processor["num_additional_image_tokens"] == BUDGET
    assert plan.layout.stock_clients


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(layout="whole", caps=Caps(max_tiles=2)), "--max-tiles is nothing"),
        (ExportOptions("none", layout="whole"), "layout whole is for pruning"),
        (ExportOptions(layout="fastervlm"), "choose from hf, whole"),
    ],
)
def test_layouts_that_do_not_suit_are_refused(checkpoint, options, message):
    with pytest.raises(RequestError, match=message):
        make_plan(inspect_checkpoint(str(checkpoint)), options)


def test_clips_are_refused_in_one_line(pruned):
    vlm = VLM.load(pruned)
    with pytest.raises(RequestError) as caught:
        vlm.generate("what?", videos=["clip.mp4"])
    assert "\n" not in str(caught.value)
    assert "pictures" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_select_strategy": "default"}, "export a checkpoint that uses 'full'"),
        ({"vision_aspect_ratio": "pad"}, "anyres_max_ and a number"),
        ({"vision_aspect_ratio": "anyres_max_4"}, "counts the features of 9 tiles at most"),
        ({"vision_feature_layer": 9}, "vision_feature_layer"),
        ({"image_grid_pinpoints": [[37, 40]]}, "two configurations are of two models"),
    ],
)
def test_unsupported_variants_are_refused_in_one_line(checkpoint, tmp_path, changes, message):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    edit_json(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(str(folder))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_towers_and_decoders_are_refused_by_what_is_supported(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    for changes, supported in (
        (
            {"vision_config": {**config["vision_config"], "model_type": "clip_vision_model"}},
            "siglip",
        ),
        ({"text_config": {**config["text_config"], "model_type": "qwen2_moe"}}, "qwen2"),
    ):
        edit_json(folder, **{**config, **changes})
        with pytest.raises(CheckpointError) as caught:
            inspect_checkpoint(str(folder))
        assert supported in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_processor_of_another_model_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    edit_pictures(folder, image_grid_pinpoints=[[37, 74]])
    with pytest.raises(CheckpointError, match="two configurations"):
        inspect_checkpoint(str(folder))
