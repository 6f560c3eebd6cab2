"""Qwen3-VL from checkpoint to answer on both engines, against transformers' own model and
processor and, where tokens are dropped, its unpruned sequence with them hidden."""

import functools
import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import AutoImageProcessor

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Sampling
from pocketvlm.artifact.specs import Pruning
from pocketvlm.cli import main
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.layouts import TokenGrid
from pocketvlm.limits import APART
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import inspect_checkpoint, open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.vision_reference import vision_reference
from support import qwen_vl
from support.checkpoints import edit_json
from support.gguf_files import needs_llama_cpp, read_gguf
from support.qwen_vl import Theirs, assistant, pixels_of, user

QUESTION = "what is in the picture?"
EDGE = 32
TOKEN = EDGE**2  # pixels
CAP = Caps(48 * TOKEN)
SIZES = [(4, 8), (5, 7)]  # rows and columns of tokens
SAMPLING = Sampling(max_new_tokens=16)
ONE_THREAD = EngineSettings(threads=1)
EXTRAS = ("deepstack_0", "deepstack_1", "deepstack_2")
# Whose tokens are the checkpoint's own; `test_merging` has the others.
NO_CLS = [
    name
    for name, method in ((name, find_pruner(name)) for name in PRUNERS)
    if not {"cls_row", "text"} & method.reads and not method.merges
]
# How far logits may be off for their size; llama.cpp's cache is in float16.
ENGINES = [
    pytest.param(("onnx", 3e-5), id="onnx"),
    pytest.param(("llama.cpp", 3e-3), id="llama.cpp", marks=needs_llama_cpp),
]
noise = functools.partial(qwen_vl.noise, edge=EDGE)


@dataclass(frozen=True)
class Pair:
    """An artifact beside transformers' model of its checkpoint."""

    theirs: Theirs
    vlm: VLM
    tolerance: float = 3e-5

    def prompt(self, prompt, images, budget):
        """Ids of a prompt with its slots, and what fills them."""
        prompter, viewer = self.vlm.parts.prompter, self.vlm.parts.viewer
        pictures = viewer.prepare(images, budget)
        segments = [viewer.encode(picture, cached=False) for picture in pictures]
        ids = prompter.encode(prompt, len(images))
        return prompter.place(ids, [picture.ids for picture in pictures]), segments

    def equal_logits(self, ids, segments, theirs):
        prompt = self.vlm.parts.prompter.segments(ids, segments)
        ours = self.vlm.parts.decoder.sequence().prefill(prompt)
        assert np.abs(ours - theirs).max() <= self.tolerance * max(1, np.abs(theirs).max())

    def equal_features(self, segments, inputs, kept):
        """Those of kept tokens, and their further ones."""
        every = np.concatenate(self.theirs.features(inputs))
        further = self.theirs.extras(inputs)
        counts = inputs["image_grid_thw"].prod(dim=1).numpy() // 4
        starts = np.cumsum([0, *counts[:-1]])
        rows = np.concatenate(
            [start + np.array(each) for start, each in zip(starts, kept, strict=True)]
        )
        ours = np.concatenate([each.inputs_embeds for each in segments])
        np.testing.assert_allclose(ours, every[rows], atol=2e-5)
        assert all(tuple(each.extras) == EXTRAS for each in segments)
        for name, expected in zip(EXTRAS, further, strict=True):
            ours = np.concatenate([each.extras[name] for each in segments])
            np.testing.assert_allclose(ours, expected[rows], atol=2e-5)


@pytest.fixture(scope="module")
def whole(qwen3, tmp_path_factory):
    """Unpruned."""
    folder = tmp_path_factory.mktemp("qwen3") / "none"
    report = export(str(qwen3), folder, ExportOptions("none", caps=CAP))
    assert report.manifest.parity.decoder["greedy_equal"] == 16
    return Pair(Theirs(qwen3, folder), VLM.load(folder))


@pytest.fixture(scope="module", params=ENGINES)
def pair(request, qwen3, qwen3_pruned):
    name, tolerance = request.param
    vlm = VLM.load(qwen3_pruned, decoder=name, settings=ONE_THREAD, limits=APART)
    return Pair(Theirs(qwen3, qwen3_pruned), vlm, tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_unpruned_it_is_transformers(whole, size):
    theirs, vlm, image = whole.theirs, whole.vlm, noise(*size)
    inputs = theirs.read(user(image, QUESTION))
    ids, segments = whole.prompt(QUESTION, [image], vlm.budget)
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    assert segments[0].grid == TokenGrid(*size)
    whole.equal_features(segments, inputs, [range(size[0] * size[1])])
    whole.equal_logits(ids, segments, theirs.logits(inputs))
    answer = vlm.generate(QUESTION, [image], sampling=SAMPLING)
    assert answer.token_ids == theirs.generate(inputs)


def test_pictures_stand_where_the_prompt_puts_them(whole):
    theirs, vlm, first, second = whole.theirs, whole.vlm, noise(3, 5), noise(6, 2)
    inputs = theirs.read(user("this ", first, ", or that ", second, "?"))
    ids, segments = whole.prompt("this <image>, or that <image>?", [first, second], vlm.budget)
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    whole.equal_logits(ids, segments, theirs.logits(inputs))


def masking(pair, prompt, images, parts, budget):
    """Hold a pruned answer against the unpruned sequence with the dropped tokens hidden; returns
    the answer."""
    answer = pair.vlm.generate(prompt, images, budget=budget, sampling=SAMPLING)
    inputs = pair.theirs.read(user(*parts))
    expected_ids, logits = pair.theirs.masked(inputs, answer.kept_indices)
    ids, segments = pair.prompt(prompt, images, budget)
    left = pair.theirs.left(inputs, answer.kept_indices)
    assert ids.tolist() == inputs["input_ids"][0].numpy()[left].tolist()
    pair.equal_features(segments, inputs, answer.kept_indices)
    pair.equal_logits(ids, segments, logits)
    assert answer.token_ids == expected_ids
    return answer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", [6, 2])
def test_dropping_tokens_is_hiding_them(pair, budget, size):
    image = noise(*size)
    answer = masking(pair, QUESTION, [image], (image, QUESTION), budget)
    assert answer.visual_tokens == {"before": size[0] * size[1], "after": budget}


def test_so_it_is_of_several_pictures_between_texts(pair):
    """One of them twice, and one with fewer tokens than the budget."""
    first, small = noise(4, 6), noise(2, 2)
    images = [first, small, noise(7, 3), first]
    prompt, parts = "a <image> b <image> c <image> d <image>", []
    for text, image in zip(prompt.split("<image>"), [*images, None], strict=True):
        parts += [text] if image is None else [text, image]
    answer = masking(pair, prompt, images, parts[:-1], 6)
    assert answer.tokens_per_picture == [6, 4, 6, 6]
    assert answer.kept_indices[0] == answer.kept_indices[3]
    assert answer.pictures_below_budget == 1


def test_every_turn_is_a_fresh_prompt_and_transformers(pair):
    first, second = noise(4, 6, seed=1), noise(5, 7, seed=2)
    chat, messages = pair.vlm.chat(), []
    for prompt, images in (
        ("what is it?", [first]),
        ("and its colour?", []),
        ("is this one larger?", [second]),
    ):
        answer = chat.ask(prompt, images, sampling=SAMPLING)
        messages.append(user(*images, prompt))
        expected, _ = pair.theirs.masked(pair.theirs.read(*messages), answer.kept_indices)
        assert answer.token_ids == expected
        assert (answer.prompt_tokens["cached"] > 0) == (len(messages) > 1)
        messages.append(assistant(answer.text.strip()))


def test_a_second_question_reads_features_that_were_kept(qwen3_pruned, tmp_path, monkeypatch):
    """In a folder, for another model of the same artifact, and with fewer tokens."""
    images = [noise(4, 8), noise(2, 2)]
    expected = [
        [VLM.load(qwen3_pruned).generate(QUESTION, [image], budget=budget, sampling=SAMPLING)
         for image in images]
        for budget in (6, 2)
    ]  # fmt: skip
    VLM.load(qwen3_pruned, feature_cache=tmp_path).generate("?", images)
    again = VLM.load(qwen3_pruned, feature_cache=tmp_path)
    monkeypatch.setattr(type(again.parts.viewer.encoder), "encode", None)
    for budget, answers in zip((6, 2), expected, strict=True):
        for image, answer in zip(images, answers, strict=True):
            kept = again.generate(QUESTION, [image], budget=budget, sampling=SAMPLING)
            assert kept.token_ids == answer.token_ids
            assert kept.kept_indices == answer.kept_indices


def test_every_precision_passed_the_gate_and_answers(qwen3_pruned):
    manifest = Artifact.open(qwen3_pruned).manifest
    parity = manifest.parity
    assert parity.passed
    assert parity.pixels["max_abs"] == 0
    assert set(parity.by_precision) == {"int8", "int4", "f32", "q8_0"}
    assert parity.by_precision["f32"]["greedy_equal"] == 16
    assert manifest.vision.extras == manifest.decoder.extras == EXTRAS
    for vision, decoder in (("int8", "int8+int4"), ("fp32", "int4")):
        vlm = VLM.load(qwen3_pruned, vision_precision=vision, decoder_precision=decoder)
        answer = vlm.generate(QUESTION, [noise(5, 7)], sampling=SAMPLING)
        assert answer.visual_tokens == {"before": 35, "after": 6}


@needs_llama_cpp
def test_the_file_for_llama_cpp_counts_further_features(qwen3_pruned):
    tensors, fields = read_gguf(qwen3_pruned / "gguf" / "decoder-f32.gguf")
    assert fields["general.architecture"] == "qwen3vl"
    assert fields["qwen3vl.n_deepstack_layers"] == len(EXTRAS)
    assert fields["qwen3vl.rope.dimension_sections"] == [6, 5, 5, 0]
    assert "output.weight" not in tensors  # tied


@functools.cache
def encoder(checkpoint, method, caps):
    """A method's vision module that keeps six tokens, as it is before it is traced, and the plan
    that it follows."""
    plan = make_plan(open_checkpoint(str(checkpoint)), ExportOptions(method, caps=caps))
    family, spec, weights = plan.spec.family, plan.spec, plan.checkpoint.weights
    tower = family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
    projector = family.load_projector(weights, spec)
    budget = 6 if plan.pruner.prunes else spec.vision.tokens
    return PrunedVisionEncoder(tower, projector, spec.vision, plan.pruner, budget), plan


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", NO_CLS)
def test_what_any_method_keeps_is_read_where_it_was(qwen3, qwen3_pruned, method, size):
    """Their vision modules, with the decoder of an artifact."""
    pair, image = loaded(qwen3, qwen3_pruned), noise(*size)
    height, width = (EDGE * edge for edge in size)
    # Those that look at no picture need all of one size.
    caps = Caps(fixed_size=(height, width)) if method in ("uniform", "random") else CAP
    with quiet_transformers(), torch.inference_mode():
        module, plan = encoder(qwen3, method, caps)
        (picture,) = pair.vlm.parts.viewer.prepare([image], 6)
        features, indices, _, *further = module(torch.from_numpy(picture.pixel_values))
        tokens = plan.spec.vision.tokens
        pruning = Pruning(method, tokens, (module.budget,), module.budget, plan.pruner.options)
        expected = vision_reference(plan.checkpoint, pruning, picture.pixel_values)[module.budget]
    np.testing.assert_array_equal(indices, expected.kept_indices)
    for name, extra in zip(EXTRAS, further, strict=True):
        np.testing.assert_allclose(extra, expected.extras[name], atol=2e-5)
    kept = indices[0].numpy()
    inputs = pair.theirs.read(user(image, QUESTION))
    left = inputs["input_ids"][0].numpy()[pair.theirs.left(inputs, [kept])]
    extras = {name: each[0].numpy() for name, each in zip(EXTRAS, further, strict=True)}
    segment = EmbeddingSegment(features[0].numpy(), grid=TokenGrid(*size), kept=kept, extras=extras)
    _, logits = pair.theirs.masked(inputs, [kept], steps=1)
    pair.equal_logits(left, [segment], logits)


@functools.cache
def loaded(checkpoint, artifact):
    return Pair(Theirs(checkpoint, artifact), VLM.load(artifact))


def test_pixels_are_those_of_the_processor(qwen3, qwen3_pruned):
    """As the artifact's files make it, from a single pixel on."""
    with quiet_transformers():
        theirs = AutoImageProcessor.from_pretrained(qwen3_pruned, backend="pil")
        own = AutoImageProcessor.from_pretrained(qwen3, backend="pil")
    assert own.size["longest_edge"] == 16777216
    viewer, random = VLM.load(qwen3_pruned).parts.viewer, np.random.default_rng(3)
    for width, height in [(1, 1), (3, 200), (150, 90), (333, 500), (1400, 610)]:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        (prepared,) = viewer.prepare([image], 1)
        expected = pixels_of(theirs(images=[image], return_tensors="np"))
        np.testing.assert_array_equal(prepared.pixel_values, expected)
        assert prepared.tokens_before <= 48


def invoke(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_it_is_looked_at_and_measured(qwen3_pruned, tmp_path):
    file, sheet = tmp_path / "picture.png", tmp_path / "kept.png"
    noise(7, 3).save(file)
    printed = invoke("inspect", qwen3_pruned)
    assert "any size up to 49152 pixels, at most 48 tokens" in printed.stdout
    drawn = invoke("inspect", qwen3_pruned, "--image", file, "--overlay", sheet, "--json")
    kept = json.loads(drawn.stdout)["kept_indices"]
    asked = ["run", qwen3_pruned, "--image", file, "--prompt", QUESTION, "--json"]
    assert json.loads(invoke(*asked).stdout)["kept_indices"] == [kept]
    smaller = json.loads(invoke(*asked, "--max-pixels", 12 * TOKEN).stdout)
    assert smaller["visual_tokens"]["before"] <= 12
    one = ["--repeat", 1, "--warmup", 0, "--new-tokens", 1, "--json"]
    measured = invoke("profile", qwen3_pruned, "--picture-size", "160x96", *one)
    assert measured.exit_code == 0, measured.output
    rows = json.loads(measured.stdout)["results"]
    counted = {(row["visual_tokens_before"], row["visual_tokens_after"]) for row in rows}
    assert (15, 6) in counted
    assert {before for before, _ in counted} == {15}


REFUSED = [
    (["--max-pixels", 16777217], "--max-pixels 16777217 is outside 1024..16777216"),
    (["--fixed-size", "96x150"], "expected multiples of 32 pixels; give 96x160"),
    (["--pruner", "fastervlm"], "no [CLS] token that fastervlm could rank patches by"),
    (["--decoder-stage", "1:4"], "is not proven on decoders that number"),
]


@pytest.mark.parametrize(("arguments", "line"), REFUSED, ids=[each[0][0] for each in REFUSED])
def test_what_an_export_refuses_in_one_line(qwen3, arguments, line, tmp_path):
    done = invoke("export", qwen3, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 1
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_clips_are_refused(qwen3_pruned):
    with pytest.raises(PocketVLMError, match="questions about pictures, not clips"):
        VLM.load(qwen3_pruned).generate(QUESTION, videos=[[noise(4, 4)] * 4])


@pytest.mark.parametrize(
    ("part", "changes", "line"),
    [
        (None, {"model_type": "qwen3_vl_moe"}, "qwen3_vl_moe model, a family that is not"),
        (None, {"model_type": "qwen3_omni_moe"}, "not supported"),
        ("text_config", {"model_type": "qwen3_vl_moe_text"}, "the decoder is a qwen3_vl_moe_text"),
        ("vision_config", {"deepstack_visual_indexes": [0, 4]}, "different layers of 0..3"),
        ("vision_config", {"deepstack_visual_indexes": [2, 1]}, "different layers of 0..3"),
        ("vision_config", {"deepstack_visual_indexes": 3}, "deepstack_visual_indexes"),
        ("vision_config", {"num_position_embeddings": 65}, "a square number"),
        ("vision_config", {"out_hidden_size": 32}, "the tower makes features of 32"),
        ("vision_config", {"patch_size": 0}, "patch_size 0"),
        ("text_config", {"num_hidden_layers": 2}, "at most 2, one for each"),
    ],
)
def test_other_models_are_refused_in_one_line(qwen3, tmp_path, part, changes, line):
    folder = shutil.copytree(qwen3, tmp_path / "changed")
    stated = json.loads((folder / "config.json").read_text())
    edit_json(folder, **(changes if part is None else {part: {**stated[part], **changes}}))
    with pytest.raises(PocketVLMError) as caught:
        inspect_checkpoint(str(folder))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    if part is None:  # what there is instead
        assert "qwen3_vl," in str(caught.value) + ","
