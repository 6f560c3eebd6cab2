"""InternVL from checkpoint to answer: both engines, every decoder, each method, held against
transformers' whole class and its own processor."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pocketvlm import VLM, Sampling
from pocketvlm.artifact.specs import Pruning
from pocketvlm.cli import main
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS
from pocketvlm_export.verification.pictures import gate_pictures
from pocketvlm_export.verification.vision_reference import vision_reference
from support.gguf_files import HAS_LLAMA_CPP
from support.internvl import TILE, N, Theirs, load_exact, numbered, vision_outputs
from support.methods import BY_PICTURE, KEEPING
from support.noise import picture

QUESTION = "what is in the picture?"
ONE, SEVEN = (60, 50), (170, 115)  # (width, height): whole, and 2 x 3 parts with the whole
BOTH = "both" if HAS_LLAMA_CPP else "onnx"
ENGINES = ["onnx", *(["llama.cpp"] if HAS_LLAMA_CPP else [])]
# Decoder, method, engine: each is exported once.
PRUNED = {
    "tiny-internvl-6b": ("fastervlm", "onnx"),  # norms on queries and keys
    "tiny-internvl-qwen3": ("received-attention", BOTH),
    "tiny-internvl-llama": ("vtc-cls", BOTH),
}
BUDGET = 5
NEAR = 1e-4  # of the largest logit


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-internvl")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return Theirs(checkpoint)


@pytest.fixture(scope="module")
def unpruned(checkpoint, tmp_path_factory):
    """(artifact, report) in all precisions; read only."""
    folder = tmp_path_factory.mktemp("internvl") / "unpruned"
    options = ExportOptions(
        "none",
        caps=Caps(max_tiles=6),
        decoder=BOTH,
        gguf_types=("f32", "q8_0") if HAS_LLAMA_CPP else (),
        vision_precisions=("fp32", "int8"),
        decoder_precisions=("fp32", "int8", "int4"),
    )
    return folder, export(str(checkpoint), folder, options)


@pytest.fixture(scope="module", params=PRUNED)
def pruned(request, make_tiny, tmp_path_factory):
    """(checkpoint, artifact, report) by a method that reads attention; read only."""
    checkpoint = make_tiny(request.param)
    method, decoder = PRUNED[request.param]
    folder = tmp_path_factory.mktemp("internvl") / method
    options = ExportOptions(
        method,
        budgets=(BUDGET,),
        caps=Caps(max_tiles=6),
        decoder=decoder,
        gguf_types=("f32",) if decoder == "both" else (),
    )
    return checkpoint, folder, export(str(checkpoint), folder, options)


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("prompt", "sizes", "tiles"),
    [
        (QUESTION, [ONE], 1),
        (QUESTION, [SEVEN], 7),
        ("is <image> blue?", [(100, 160)], 7),
        ("is <image> like <image>?", [ONE, (112, 56)], 4),
        (QUESTION, [(112, 56), ONE], 4),
    ],
)
def test_unpruned_it_is_transformers(unpruned, theirs, engine, prompt, sizes, tiles):
    vlm = load_exact(unpruned[0], engine)
    images = [picture(*size) for size in sizes]
    inputs = theirs.prepare(prompt, images)
    expected_ids, expected_logits = theirs.answer(inputs)
    ids, pixels, features, logits = prompted(vlm, prompt, images, N)
    assert len(pixels) == tiles
    assert ids == inputs["input_ids"][0].tolist()
    np.testing.assert_array_equal(pixels, inputs["pixel_values"].numpy())
    expected = theirs.features(inputs["pixel_values"]).flatten(0, 1)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert difference(logits, expected_logits) <= NEAR
    answer = ask(vlm, prompt, images)
    assert answer.token_ids == expected_ids
    assert answer.visual_tokens == {"before": tiles * N, "after": tiles * N}


def test_every_precision_is_measured(unpruned):
    folder, report = unpruned
    figures = report.manifest.parity.by_precision
    assert {"vision", "decoder"} <= set(figures["int8"])
    assert "decoder" in figures["int4"]
    for precision in ("int8", "int4"):
        vlm = VLM.load(folder, decoder_precision=precision, vision_precision="int8")
        assert ask(vlm, QUESTION, [picture(*SEVEN)]).visual_tokens["after"] == 7 * N
    if HAS_LLAMA_CPP:
        assert figures["f32"]["greedy_equal"] == 16
        assert figures["q8_0"]["cosine"] > 0.99
        q8 = VLM.load(folder, decoder="llama.cpp", decoder_precision="q8_0")
        assert ask(q8, QUESTION, [picture(*SEVEN)]).decoder == "llama.cpp q8_0"


def test_both_tables_are_read_as_they_are_stored(unpruned, theirs):
    """The configuration has no word on ties, and transformers' default is that there are."""
    assert theirs.model.config.tie_word_embeddings
    table, head = theirs.model.get_input_embeddings().weight, theirs.model.lm_head.weight
    assert not torch.equal(table, head)
    assert unpruned[1].manifest.decoder.context == 1024  # max_position_embeddings, not stretched


def test_pruned_it_keeps_the_tokens_that_are_attended_to_most(pruned):
    checkpoint, folder, report = pruned
    method, theirs = report.manifest.pruning.method, Theirs(checkpoint)
    for engine in report.manifest.decoder.engines:
        vlm = load_exact(folder, engine)
        for prompt, size in ((QUESTION, ONE), ("is <image> blue?", SEVEN)):
            images = [picture(*size)]
            inputs = theirs.prepare(prompt, images, BUDGET)
            kept = [theirs.kept(method, tile, BUDGET) for tile in inputs["pixel_values"]]
            expected_ids, expected_logits = theirs.answer_kept(inputs, kept)
            answer = ask(vlm, prompt, images)
            assert answer.kept_indices == [numbered(kept)]
            assert answer.token_ids == expected_ids
            ids, _, _, logits = prompted(vlm, prompt, images, BUDGET)
            assert ids == inputs["input_ids"][0].tolist()
            assert difference(logits, expected_logits) <= NEAR


def test_a_smaller_budget_of_two_pictures(pruned):
    checkpoint, folder, report = pruned
    theirs, images = Theirs(checkpoint), [picture(*SEVEN), picture(*ONE)]
    inputs = theirs.prepare(QUESTION, images, 3)
    kept = [theirs.kept(report.manifest.pruning.method, tile, 3) for tile in inputs["pixel_values"]]
    answer = ask(VLM.load(folder), QUESTION, images, budget=3)
    assert answer.kept_indices == [numbered(kept[:7]), numbered(kept[7:])]
    assert answer.token_ids == theirs.answer_kept(inputs, kept)[0]
    assert answer.tokens_per_picture == [21, 3]


@pytest.mark.parametrize("name", KEEPING)
def test_every_method_keeps_what_its_oracle_keeps(checkpoint, theirs, name):
    opened, pixels = open_checkpoint(str(checkpoint)), gate_pictures(2, (TILE, TILE))
    pruner = make_plan(opened, ExportOptions(name)).pruner
    budget = 6 if pruner.prunes else N
    pruning = Pruning(name, N, (budget,), budget, pruner.options)
    features, indices, _ = vision_outputs(opened, pruner, budget, pixels)
    with torch.inference_mode():
        reference = vision_reference(opened, pruning, pixels)[budget]
    np.testing.assert_array_equal(indices, reference.kept_indices)
    for number, tile in enumerate(torch.from_numpy(pixels)):
        assert indices[number].tolist() == theirs.kept_by_oracle(pruning, tile).tolist()
        expected = theirs.features(tile[None])[0].numpy()[indices[number]]
        np.testing.assert_allclose(features[number], expected, atol=1e-5)


def test_features_of_an_inner_layer(make_tiny):
    folder = make_tiny("tiny-internvl")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vision_feature_layer": -2}))
    opened, pixels = open_checkpoint(str(folder)), gate_pictures(1, (TILE, TILE))
    pruner = make_plan(opened, ExportOptions("none")).pruner
    features, _, _ = vision_outputs(opened, pruner, N, pixels)
    expected = Theirs(folder).features(torch.from_numpy(pixels))
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_ranking_by_cls_is_warned_of(checkpoint, tmp_path):
    command = ["export", str(checkpoint), "-o", str(tmp_path / "out"), "--dry-run", "--json"]
    for name in PRUNERS:
        result = CliRunner().invoke(main, [*command, "--pruner", name])
        stated = json.loads(result.stdout)
        reads_cls = name in ("fastervlm", "vtc-cls")
        assert (f"Warning: {name} ranks patches by what [CLS]" in result.stderr) == reads_cls
        reads_text = name not in BY_PICTURE  # which other clients cannot
        assert len(stated["warnings"]) == reads_cls + reads_text
        assert stated["caps"] == {"max_tiles": 4}
