"""LFM2-VL from checkpoint to answer on both engines, against transformers' own model and processor
and, where tokens are dropped, its language model without them."""

import json
import shutil
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
import torch

from pocketvlm import VLM, EngineSettings, PocketVLMError, Sampling
from pocketvlm.artifact.specs import Pruning
from pocketvlm.artifact.stages import Stage
from pocketvlm.cli import main
from pocketvlm.layouts import make_layout
from pocketvlm.limits import APART
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.vision_reference import vision_reference
from support.gguf_files import HAS_LLAMA_CPP, needs_llama_cpp
from support.lfm2_vl import Theirs, noise
from support.qwen_vl import assistant, user
from support.using import check_facts

QUESTION = "what is in the picture?"
SIZES = [(4, 6), (5, 7), (8, 8)]  # rows and columns of tokens: two below the budget's largest
# Rows and columns of tokens of pictures that are cut, and those of their tiles and thumbnail: of
# 64 tokens each, and as many as a picture of its proportions has.
CUT = {(9, 18): (1, 2, 5 * 11), (19, 9): (2, 1, 11 * 5), (14, 15): (2, 2, 7 * 8)}
SAMPLING = Sampling(max_new_tokens=16)
ONE_THREAD = EngineSettings(threads=1)
# How far logits may be off for their size; llama.cpp's cache is in float16.
ENGINES = [
    pytest.param(("onnx", 3e-5), id="onnx"),
    pytest.param(("llama.cpp", 5e-3), id="llama.cpp", marks=needs_llama_cpp),
]
NO_CLS = [name for name in PRUNERS if not {"cls_row", "text"} & find_pruner(name).reads]
DECODER, TYPES = ("both", ("f32",)) if HAS_LLAMA_CPP else ("onnx", ())


@dataclass(frozen=True)
class Pair:
    """An artifact beside transformers' model of its checkpoint, and how far logits may be off."""

    theirs: Theirs
    vlm: VLM
    tolerance: float

    def near(self, ours, theirs):
        assert np.abs(ours - theirs).max() <= self.tolerance * max(1, np.abs(theirs).max())

    def ours(self, ids, segments):
        """Logits behind a prompt, its pictures' features given."""
        prompter = self.vlm.parts.prompter
        return self.vlm.parts.decoder.sequence().prefill(prompter.segments(ids, segments))

    def prompt(self, prompt, images, budget):
        """Ids of a prompt with its slots, and the features that fill them."""
        prompter, viewer = self.vlm.parts.prompter, self.vlm.parts.viewer
        pictures = viewer.prepare(images, budget)
        segments = [viewer.encode(picture, cached=False) for picture in pictures]
        ids = prompter.encode(prompt, len(images))
        return prompter.place(ids, [picture.ids for picture in pictures]), segments


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-lfm2-vl")


def exported(checkpoint, folder, options):
    report = export(str(checkpoint), folder, options)
    parity = report.manifest.parity
    assert parity.decoder["greedy_equal"] == 16
    assert parity.pixels["max_abs"] == 0.0
    return folder


@pytest.fixture(scope="module")
def unpruned_folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lfm2") / "none"
    return exported(checkpoint, folder, ExportOptions("none", decoder=DECODER, gguf_types=TYPES))


@pytest.fixture(scope="module")
def pruned_folder(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lfm2") / "pruned"
    options = ExportOptions("received-attention", budgets=(50,), decoder=DECODER, gguf_types=TYPES)
    return exported(checkpoint, folder, options)


@pytest.fixture(scope="module", params=ENGINES)
def unpruned(request, checkpoint, unpruned_folder):
    engine, tolerance = request.param
    vlm = VLM.load(unpruned_folder, decoder=engine, settings=ONE_THREAD)
    return Pair(Theirs(checkpoint, unpruned_folder), vlm, tolerance)


@pytest.fixture(scope="module", params=ENGINES)
def pruned(request, checkpoint, pruned_folder):
    engine, tolerance = request.param
    vlm = VLM.load(pruned_folder, decoder=engine, settings=ONE_THREAD, limits=APART)
    return Pair(Theirs(checkpoint, pruned_folder), vlm, tolerance)


def tokens_of(size):
    """Of each tile, the thumbnail last."""
    rows, columns, thumbnail = CUT.get(size, (0, 0, size[0] * size[1]))
    return [*[64] * (rows * columns), thumbnail]


@pytest.mark.parametrize("size", [*SIZES, *CUT])
def test_unpruned_it_is_transformers(unpruned, size):
    theirs, vlm, image = unpruned.theirs, unpruned.vlm, noise(*size)
    inputs = theirs.read(user(image, QUESTION))
    shapes = inputs["spatial_shapes"].prod(dim=1) // 4
    assert shapes.tolist() == tokens_of(size)
    ids, (segment,) = unpruned.prompt(QUESTION, [image], vlm.budget)
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    np.testing.assert_allclose(segment.inputs_embeds, theirs.features(inputs)[0], atol=2e-5)
    unpruned.near(unpruned.ours(ids, [segment]), theirs.logits(inputs))
    answer = vlm.generate(QUESTION, [image], sampling=SAMPLING)
    assert answer.token_ids == theirs.generate(inputs)
    count = sum(tokens_of(size))
    assert answer.visual_tokens == {"before": count, "after": count}


def test_pictures_stand_where_the_prompt_puts_them(unpruned):
    theirs, vlm, first, second = unpruned.theirs, unpruned.vlm, noise(3, 6), noise(9, 18)
    for prompt, parts in (
        ("what are they?", (first, second, "what are they?")),
        ("this <image>, or that <image>?", ("this ", first, ", or that ", second, "?")),
        ("twice <image> <image>", ("twice ", first, " ", first)),
    ):
        images = [part for part in parts if not isinstance(part, str)]
        inputs = theirs.read(user(*parts))
        ids, segments = unpruned.prompt(prompt, images, vlm.budget)
        assert ids.tolist() == inputs["input_ids"][0].tolist()
        unpruned.near(unpruned.ours(ids, segments), theirs.logits(inputs))
        answer = vlm.generate(prompt, images, sampling=SAMPLING)
        assert answer.token_ids == theirs.generate(inputs)


def dropping(pair, prompt, images, parts, budget):
    """Hold a pruned answer against the sequence without the dropped tokens; returns the answer."""
    answer = pair.vlm.generate(prompt, images, budget=budget, sampling=SAMPLING)
    inputs = pair.theirs.read(user(*parts))
    expected_ids, logits = pair.theirs.dropped(inputs, answer.kept_indices)
    ids, segments = pair.prompt(prompt, images, budget)
    left = pair.theirs.left(inputs, answer.kept_indices)
    assert ids.tolist() == inputs["input_ids"][0].numpy()[left].tolist()
    for segment, features, kept in zip(
        segments, pair.theirs.features(inputs), answer.kept_indices, strict=True
    ):
        np.testing.assert_allclose(segment.inputs_embeds, features[kept], atol=2e-5)
    pair.near(pair.ours(ids, segments), logits)
    assert answer.token_ids == expected_ids
    return answer


@pytest.mark.parametrize("size", [*SIZES, *CUT])
@pytest.mark.parametrize("budget", [9, 3])
def test_pruned_it_is_the_sequence_without_the_dropped_tokens(pruned, budget, size):
    image, tokens = noise(*size), tokens_of(size)
    answer = dropping(pruned, QUESTION, [image], (image, QUESTION), budget)
    assert answer.visual_tokens == {"before": sum(tokens), "after": budget * len(tokens)}
    # Numbered on from tile to tile, the thumbnail last.
    (kept,), ends = answer.kept_indices, np.cumsum(tokens)
    assert np.searchsorted(ends, kept, side="right").tolist() == [
        tile for tile in range(len(tokens)) for _ in range(budget)
    ]


def test_a_thumbnail_below_the_budget_keeps_all(pruned):
    """Narrow: the thumbnail has 2 x 24 tokens, where a tile keeps 50."""
    image, (kept, tokens) = noise(4, 36), (4 * 50 + 48, 4 * 64 + 48)
    answer = dropping(pruned, QUESTION, [image], (image, QUESTION), 50)
    assert answer.visual_tokens == {"before": tokens, "after": kept}
    assert answer.kept_indices[0][-48:] == list(range(4 * 64, tokens))
    assert answer.pictures_below_budget == 0


def test_so_it_is_of_several_pictures_between_texts(pruned):
    images = [noise(4, 6), noise(9, 18), noise(7, 3)]
    prompt, parts = "a <image> b <image> c <image> d", []
    for text, image in zip(prompt.split("<image>"), [*images, None], strict=True):
        parts += [text] if image is None else [text, image]
    answer = dropping(pruned, prompt, images, parts, 9)
    assert answer.tokens_per_picture == [9, 3 * 9, 9]


def test_every_turn_is_a_fresh_prompt_and_goes_on_from_the_last(pruned):
    vlm, theirs = pruned.vlm, pruned.theirs
    first, second = noise(9, 18, seed=1), noise(5, 7, seed=2)
    turns = [
        ("what is it?", [first]),
        ("and its colour?", []),
        ("is this one <image> larger?", [second]),
        ("why?", []),
    ]
    chat, messages, before = vlm.chat(), [], None
    for prompt, images in turns:
        answer = chat.ask(prompt, images, sampling=SAMPLING)
        parts = [*images, prompt]
        if "<image>" in prompt:
            head, tail = prompt.split("<image>")
            parts = [head, images[0], tail]
        messages.append(user(*parts))
        fresh = vlm.generate(messages=messages, sampling=SAMPLING)
        assert answer.token_ids == fresh.token_ids
        assert answer.prompt_tokens["total"] == fresh.prompt_tokens["total"]
        expected_ids, _ = theirs.dropped(theirs.read(*messages), answer.kept_indices)
        assert answer.token_ids == expected_ids
        cached = answer.prompt_tokens["cached"]
        # What is new begins behind the last answer; where its words are other tokens when they are
        # read again, behind the question that it answers.
        assert cached == 0 if before is None else cached >= before - 1
        before = answer.prompt_tokens["total"]
        messages.append(assistant(answer.text.strip()))


def test_a_second_question_takes_the_features_of_the_first(pruned):
    vlm, image = pruned.vlm, noise(18, 9, seed=5)
    chat = vlm.chat()
    chat.ask("what?", [image], sampling=SAMPLING)
    again = chat.ask("the same <image>?", [image], sampling=SAMPLING)
    fresh = vlm.chat()
    fresh.ask("what?", [image], sampling=SAMPLING)
    assert again.token_ids == fresh.ask("the same <image>?", [image], sampling=SAMPLING).token_ids


def test_the_page_for_other_languages_is_enough_to_answer(pruned_folder):
    """By the facts of using.json alone, with numpy and the graphs."""
    stated = json.loads((pruned_folder / "using.json").read_text())
    sessions = {
        role: ort.InferenceSession(pruned_folder / graph["file"])
        for role, graph in stated["graphs"].items()
    }
    vlm, image = VLM.load(pruned_folder, decoder="onnx", settings=ONE_THREAD), noise(5, 6)
    expected = vlm.generate(stated["prompt"]["question"], [image], sampling=SAMPLING)
    (picture,) = vlm.parts.viewer.prepare([image], stated["visual_tokens"])
    (features,) = sessions["vision"].run(["image_features"], {"pixel_values": picture.pixel_values})

    def embed(ids):
        return sessions["embed"].run(None, {"input_ids": np.array([ids], np.int64)})[0][0]

    ids, layers = stated["prompt"]["ids"], stated["convolutions"]
    at = ids.index(stated["image_token_id"])
    embeds = np.concatenate([embed(ids[:at]), features[0], embed(ids[at + 1 :])])
    shape = (1, stated["kv_heads"], 0, stated["head_dim"])
    state = np.zeros((1, stated["hidden"], layers["width"]), np.float32)
    pairs = [(f"past_conv.{n}", f"present_conv.{n}", state) for n in layers["layers"]]
    pairs += [
        (f"past_key_values.{n}.{kind}", f"present.{n}.{kind}", np.zeros(shape, np.float32))
        for n in layers["attention"]
        for kind in ("key", "value")
    ]
    cache, answer, length = {past: value for past, _, value in pairs}, [], 0
    while len(answer) < len(expected.token_ids):
        positions = np.arange(length, length + len(embeds))[None]
        length += len(embeds)
        feed = {"inputs_embeds": embeds[None], "attention_mask": np.ones((1, length), np.int64)}
        logits, *present = sessions["decoder"].run(
            ["logits", *(name for _, name, _ in pairs)],
            feed | {"position_ids": positions} | cache,
        )
        cache = dict(zip(cache, present, strict=True))
        answer.append(int(logits[0, -1].argmax()))
        embeds = embed(answer[-1:])
    assert answer == expected.token_ids
    assert "convolutions" in check_facts(pruned_folder)["needs"]
    assert "`past_conv.N` is their state" in (pruned_folder / "USING.md").read_text()


def test_inspect_says_what_of_a_prompt_is_reused(pruned_folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(pruned_folder)])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "layers are convolutions: a conversation continues from its last turn" in printed
    assert "at most 64 tokens per tile -> 50" in printed
    assert "50 per tile come to 50 (1x1), 150 (1x2)" in printed
    assert "250 (2x2) visual tokens per picture" in printed
    assert "at most 4 tiles of 224x224 pixels and a thumbnail" in printed


def plan_of(checkpoint, **options):
    return make_plan(open_checkpoint(str(checkpoint)), ExportOptions("divprune", **options))


def test_large_pictures_are_made_smaller_where_that_is_asked_for(checkpoint, tmp_path):
    """By ``--layout whole``, and transformers' processor by the artifact's files."""
    options = ExportOptions("none", layout="whole")
    folder = exported(checkpoint, tmp_path / "whole", options)
    theirs, vlm, image = Theirs(checkpoint, folder), VLM.load(folder), noise(9, 18)
    inputs = theirs.read(user(image, QUESTION))
    answer = vlm.generate(QUESTION, [image], sampling=SAMPLING)
    assert answer.token_ids == theirs.generate(inputs)
    assert answer.visual_tokens == {"before": 5 * 11, "after": 5 * 11}


def test_pictures_are_cut_as_the_processor_says(checkpoint, tmp_path):
    assert plan_of(checkpoint).warnings == ()
    cut = plan_of(checkpoint).layout.stated
    assert (cut["name"], cut["max_tiles"], cut["tile"]) == ("tiles-and-thumbnail", 4, 224)
    assert plan_of(checkpoint, caps=Caps(max_tiles=10)).layout.stated["max_tiles"] == 10
    smaller = plan_of(checkpoint, caps=Caps(max_pixels=20 * 28 * 28, max_tiles=3)).layout.stated
    assert (smaller["tile"], smaller["max_tiles"], smaller["cut_above"]) == (112, 3, 128 * 28**2)
    whole = plan_of(checkpoint, layout="whole").layout.stated
    assert whole["name"] == "marked-resize"
    assert plan_of(checkpoint, caps=Caps(fixed_size=(112, 112))).layout.stated["size"] == [112, 112]
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    for changed in ({"do_image_splitting": False}, {"min_tiles": 1, "max_tiles": 1}):
        restate(folder, **changed)
        plan = plan_of(folder)
        assert plan.layout.stated["name"] == "marked-resize"
        assert list(plan.spec.layouts) == ["hf"]
        with pytest.raises(PocketVLMError, match="--max-tiles is nothing that the layout"):
            plan_of(folder, caps=Caps(max_tiles=4))


def restate(folder, **changed):
    """Write other settings into a checkpoint's image processor."""
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"min_tiles": 1}, "cuts large pictures into 1 to 10 tiles of 224 pixels"),
        ({"tile_size": 230}, "of multiples of 28 pixels"),
        ({"max_pixels_tolerance": "two"}, "max_pixels_tolerance 'two'"),
        ({"use_thumbnail": 1}, "use_thumbnail 1"),
        ({"max_tiles": 11}, r"has no token <\|img_row_1_col_11\|>"),
        ({"max_tiles": 1}, "cuts large pictures into 2 to 1 tiles"),
        ({"max_pixels_tolerance": 1e7}, "for one tile"),
    ],
)
def test_cutting_that_cannot_be_followed_is_refused(checkpoint, tmp_path, changed, reason):
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    restate(folder, **changed)
    with pytest.raises(PocketVLMError, match=reason) as error:
        plan_of(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", NO_CLS)
def test_every_method_keeps_what_its_oracle_keeps(checkpoint, method):
    """On a graph of one size, which is that of any size with the picture's given."""
    options = ExportOptions(method, caps=Caps(fixed_size=(112, 168)))
    plan = make_plan(open_checkpoint(str(checkpoint)), options)
    family, spec, weights = plan.spec.family, plan.spec, plan.checkpoint.weights
    budget = 7 if plan.pruner.prunes else spec.vision.tokens
    pixels = np.random.default_rng(0).normal(size=(2, 3, 112, 168)).astype(np.float32)
    with quiet_transformers(), torch.inference_mode():
        tower = family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
        projector = family.load_projector(weights, spec)
        module = PrunedVisionEncoder(tower, projector, spec.vision, plan.pruner, budget)
        features, indices, _ = module(torch.from_numpy(pixels))
        pruning = Pruning(method, 24, (budget,), budget, plan.pruner.options)
        expected = vision_reference(plan.checkpoint, pruning, pixels)[budget]
    np.testing.assert_array_equal(indices, expected.kept_indices)
    np.testing.assert_allclose(features, expected.image_features, atol=2e-5)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "not supported"),
        ({"vision_config": {"num_patches": 15}}, "a square number of positions"),
        ({"vision_feature_layer": -2}, "-1, the only one that transformers reads"),
        ({"text_config": {"model_type": "lfm2_moe"}}, "'lfm2_moe', which is not supported"),
        ({"text_config": {"conv_L_cache": 0}}, "conv_L_cache"),
        ({"text_config": {"layer_types": ["conv"] * 4}}, "no layer of the decoder attends"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(checkpoint, tmp_path, changed, reason):
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    for key, value in changed.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PocketVLMError, match=reason) as error:
        plan_of(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"decoder_stages": (Stage(1, 4),)}, "layers of this decoder are convolutions"),
        ({"caps": Caps(max_tiles=1)}, r"--max-tiles 1 is outside 2\.\.10.*--layout whole"),
        ({"caps": Caps(max_tiles=4), "layout": "whole"}, "nothing that the layout marked-resize"),
        ({"caps": Caps(max_tiles=4, fixed_size=(112, 112))}, "nothing that the layout"),
        ({"caps": Caps(max_pixels=100)}, "--max-pixels 100 is outside"),
        ({"caps": Caps(max_pixels=1 << 24)}, "give at most"),
        ({"caps": Caps(fixed_size=(60, 64))}, "is not a whole number of tokens"),
        ({"caps": Caps(fixed_size=(280, 280))}, "has 78400 pixels"),
    ],
)
def test_options_that_do_not_fit_are_refused(checkpoint, options, reason):
    with pytest.raises(PocketVLMError, match=reason):
        plan_of(checkpoint, **options)


def test_a_processor_of_another_token_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    restate(folder, downsample_factor=4)
    with pytest.raises(PocketVLMError, match="makes multiples of 56 pixels"):
        plan_of(folder)


def test_no_marks_where_the_processor_writes_none(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    stated = {"processor_class": "Lfm2VlProcessor", "use_image_special_tokens": False}
    (folder / "processor_config.json").write_text(json.dumps(stated))
    layout = plan_of(folder, layout="whole").layout
    assert (layout.stated["before"], layout.stated["after"], layout.text) == ([], [], None)
    cut = plan_of(folder).layout
    assert (cut.stated["before"], cut.stated["whole"], cut.stated["parts"][0]) == ([], [], [[]] * 4)
    grid = make_layout(plan_of(folder).spec.layout_config(cut.stated)).grid(600, 300)
    assert cut.text("<image>", grid) == "<image>" * 3
