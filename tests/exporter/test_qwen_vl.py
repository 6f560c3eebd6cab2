"""Qwen2-VL and Qwen2.5-VL from checkpoint to answer, against transformers' own models, processors
and, where tokens are dropped, its unpruned sequence with them hidden."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pocketvlm import VLM, Sampling
from pocketvlm.artifact.specs import Pruning
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.layouts import TokenGrid
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.build import build_vision
from pocketvlm_export.caps import Caps
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.towers import attention
from pocketvlm_export.towers.attention import blocks_of
from pocketvlm_export.verification.vision_reference import vision_reference
from support.qwen_vl import Theirs, noise, user

QUESTION = "what is in the picture?"
CAP = 48 * 28**2
SIZES = [(4, 8), (5, 7)]  # rows and columns of tokens; windows are 4x4, the second is ragged
SAMPLING = Sampling(max_new_tokens=16)
# Whose tokens are the checkpoint's own; `test_merging` has the others.
NO_CLS = [
    name
    for name, method in ((name, find_pruner(name)) for name in PRUNERS)
    if not {"cls_row", "text"} & method.reads and not method.merges
]


@dataclass(frozen=True)
class Pair:
    """An artifact beside transformers' model of its checkpoint."""

    theirs: Theirs
    vlm: VLM

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


def equal_logits(ours, theirs):
    assert np.abs(ours - theirs).max() <= 3e-5 * max(1, np.abs(theirs).max())


@pytest.fixture(scope="module", params=["qwen25", "qwen2"])
def unpruned(request, tmp_path_factory):
    """One family in standard operators, its maps in blocks, the other as .ort files."""
    checkpoint = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "none"
    form = {"portable": True} if request.param == "qwen25" else {"format": "ort"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "MAP_BYTES", 1 << 16)
        report = export(str(checkpoint), folder, ExportOptions("none", caps=Caps(CAP), **form))
    assert report.manifest.parity.decoder["greedy_equal"] == 16
    return Pair(Theirs(checkpoint, folder), VLM.load(folder))


@pytest.fixture(scope="module")
def pruned(qwen25, qwen25_pruned):
    return Pair(Theirs(qwen25, qwen25_pruned), VLM.load(qwen25_pruned))


@pytest.fixture(scope="module")
def by_default(qwen2, qwen2_by_default):
    return Pair(Theirs(qwen2, qwen2_by_default), VLM.load(qwen2_by_default))


@pytest.mark.parametrize("size", SIZES)
def test_unpruned_it_is_transformers(unpruned, size):
    theirs, vlm, image = unpruned.theirs, unpruned.vlm, noise(*size)
    inputs = theirs.read(user(image, QUESTION))
    ids, (segment,) = unpruned.prompt(QUESTION, [image], vlm.budget)
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    assert segment.grid == TokenGrid(*size)
    np.testing.assert_allclose(segment.inputs_embeds, theirs.features(inputs)[0], atol=2e-5)
    equal_logits(unpruned.ours(ids, [segment]), theirs.logits(inputs))
    answer = vlm.generate(QUESTION, [image], sampling=SAMPLING)
    assert answer.token_ids == theirs.generate(inputs)
    assert answer.visual_tokens == {"before": size[0] * size[1], "after": size[0] * size[1]}


def test_pictures_stand_where_the_prompt_puts_them(unpruned):
    theirs, vlm, first, second = unpruned.theirs, unpruned.vlm, noise(3, 5), noise(6, 2)
    for prompt, parts in (
        ("what are they?", (first, second, "what are they?")),
        ("this <image>, or that <image>?", ("this ", first, ", or that ", second, "?")),
        ("<image> is which? <image>", (first, " is which? ", second)),
    ):
        inputs = theirs.read(user(*parts))
        ids, segments = unpruned.prompt(prompt, [first, second], vlm.budget)
        assert ids.tolist() == inputs["input_ids"][0].tolist()
        equal_logits(unpruned.ours(ids, segments), theirs.logits(inputs))
        answer = vlm.generate(prompt, [first, second], sampling=SAMPLING)
        assert answer.token_ids == theirs.generate(inputs)


def test_portable_files_hold_standard_operators_and_no_whole_map(unpruned):
    root = unpruned.vlm.artifact.root
    for path in root.glob("onnx/*.onnx"):
        assert {node.domain for node in onnx.load(path).graph.node} <= {"", "ai.onnx"}
    if unpruned.vlm.artifact.manifest.source.family == "qwen2_5_vl":
        # 2 heads x 192 x 192 patches in five blocks, in each layer without windows; two have them.
        assert operators(root / "onnx" / "vision_encoder.onnx").count("Softmax") == 2 * 5 + 2


def masking(pair, prompt, images, parts, budget):
    """Hold a pruned answer against the unpruned sequence with the dropped tokens hidden; returns
    the answer."""
    answer = pair.vlm.generate(prompt, images, budget=budget, sampling=SAMPLING)
    inputs = pair.theirs.read(user(*parts))
    expected_ids, logits = pair.theirs.masked(inputs, answer.kept_indices)
    ids, segments = pair.prompt(prompt, images, budget)
    left = pair.theirs.left(inputs, answer.kept_indices)
    assert ids.tolist() == inputs["input_ids"][0].numpy()[left].tolist()
    for segment, features, kept in zip(
        segments, pair.theirs.features(inputs), answer.kept_indices, strict=True
    ):
        np.testing.assert_allclose(segment.inputs_embeds, features[kept], atol=2e-5)
    equal_logits(pair.ours(ids, segments), logits)
    assert answer.token_ids == expected_ids
    return answer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", [6, 2])
@pytest.mark.parametrize("name", ["pruned", "by_default"])
def test_dropping_tokens_is_hiding_them(request, name, budget, size):
    pair, image = request.getfixturevalue(name), noise(*size)
    answer = masking(pair, QUESTION, [image], (image, QUESTION), budget)
    assert answer.visual_tokens == {"before": size[0] * size[1], "after": budget}
    assert answer.pictures_below_budget == 0


def test_so_it_is_of_several_pictures_between_texts(pruned):
    images = [noise(4, 6), noise(2, 2), noise(7, 3)]
    prompt, parts = "a <image> b <image> c <image> d", []
    for text, image in zip(prompt.split("<image>"), [*images, None], strict=True):
        parts += [text] if image is None else [text, image]
    answer = masking(pruned, prompt, images, parts, 6)
    assert answer.tokens_per_picture == [6, 4, 6]
    assert answer.visual_tokens == {"before": 24 + 4 + 21, "after": 16}
    assert answer.pictures_below_budget == 1


@pytest.mark.parametrize("name", ["pruned", "by_default"])
def test_a_picture_with_fewer_tokens_than_the_budget_keeps_all(request, name):
    pair, size = request.getfixturevalue(name), (2, 3) if name == "pruned" else (5, 7)
    image = noise(*size)
    answer = pair.vlm.generate(QUESTION, [image], sampling=SAMPLING)
    tokens = size[0] * size[1]
    assert answer.kept_indices == [list(range(tokens))]
    assert answer.visual_tokens == {"before": tokens, "after": tokens}
    assert answer.pictures_below_budget == int(tokens < pair.vlm.budget)
    assert answer.token_ids == pair.theirs.generate(pair.theirs.read(user(image, QUESTION)))


@pytest.mark.parametrize("size", [*SIZES, (2, 2)])
def test_a_smaller_budget_is_the_graph_that_was_exported_for_it(pruned, size):
    narrow = VLM.load(pruned.vlm.artifact.root, budget=3)
    answers = [
        vlm.generate(QUESTION, [noise(*size)], budget=3, sampling=SAMPLING)
        for vlm in (pruned.vlm, narrow)
    ]
    assert answers[0].kept_indices == answers[1].kept_indices
    assert answers[0].token_ids == answers[1].token_ids


@functools.cache
def encoder(checkpoint: Path, method: str, caps: Caps):
    """A method's vision module of Qwen2.5-VL that keeps six tokens, as it is before it is traced,
    and the plan that it follows."""
    plan = make_plan(open_checkpoint(str(checkpoint)), ExportOptions(method, caps=caps))
    family, spec, weights = plan.spec.family, plan.spec, plan.checkpoint.weights
    tower = family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
    projector = family.load_projector(weights, spec)
    budget = 6 if plan.pruner.prunes else spec.vision.tokens
    return PrunedVisionEncoder(tower, projector, spec.vision, plan.pruner, budget), plan


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", NO_CLS)
def test_what_any_method_keeps_is_read_where_it_was(pruned, qwen25, method, size):
    """Their vision modules, with the decoder of an artifact."""
    image = noise(*size)
    height, width = (28 * edge for edge in size)
    # Those that look at no picture need all of one size.
    caps = Caps(fixed_size=(height, width)) if method in ("uniform", "random") else Caps(CAP)
    with quiet_transformers(), torch.inference_mode():
        module, plan = encoder(qwen25, method, caps)
        (picture,) = pruned.vlm.parts.viewer.prepare([image], 6)
        features, indices, _ = module(torch.from_numpy(picture.pixel_values))
        tokens = plan.spec.vision.tokens
        pruning = Pruning(method, tokens, (module.budget,), module.budget, plan.pruner.options)
        expected = vision_reference(plan.checkpoint, pruning, picture.pixel_values)
    kept = indices[0].numpy()
    assert len(kept) == (6 if plan.pruner.prunes else size[0] * size[1])
    np.testing.assert_array_equal(indices, expected[module.budget].kept_indices)
    inputs = pruned.theirs.read(user(image, QUESTION))
    left = inputs["input_ids"][0].numpy()[pruned.theirs.left(inputs, [kept])]
    segment = EmbeddingSegment(features[0].numpy(), grid=TokenGrid(*size), kept=kept)
    _, logits = pruned.theirs.masked(inputs, [kept], steps=1)
    equal_logits(pruned.ours(left, [segment]), logits)


def operators(path):
    """The operators of a graph, one for each node."""
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def test_no_tensor_grows_with_the_square_of_the_patches(qwen25, tmp_path):
    """For pictures of 8,000 patches: layers that attend to all of them are fused, and scores come
    in blocks of 64 MB. What other maps there are belong to windows."""
    checkpoint = open_checkpoint(str(qwen25))
    options = ExportOptions(
        "received-attention", budgets=(6,), caps=Caps(2000 * 28**2), context=1024
    )
    (tmp_path / "onnx").mkdir()
    with quiet_transformers():
        build_vision(make_plan(checkpoint, options), tmp_path, lambda step: None)
    found = operators(tmp_path / "onnx" / "vision_encoder.onnx")
    assert blocks_of(2, 8000, 8000) == 8
    assert found.count("MultiHeadAttention") == 2
    assert found.count("Softmax") == 2 + 8
