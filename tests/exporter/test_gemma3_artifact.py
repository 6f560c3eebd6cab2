"""Gemma 3 exported and asked, against transformers' whole class: prompt ids, features, logits and
tokens, unpruned and with the dropped tokens taken out of its sequence, through both engines."""

import json
import shutil

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.cli import main
from pocketvlm.decoders.base import EmbeddingSegment
from pocketvlm.decoders.llama_library import library
from pocketvlm.errors import EngineError
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.verification import ParityError, verify_against
from support.gemma3 import N, Theirs, parts
from support.internvl import load_exact
from support.noise import picture
from support.shared import write_once
from support.tiny_artifact import read_manifest, write_manifest

pytest.importorskip("llama_cpp")

K, STEPS = 5, 16
MANY = Sampling(max_new_tokens=STEPS)
ONE, TWO, WIDE = picture(120, 80), picture(50, 90), picture(200, 60)
QUESTIONS = [
    ("what is in the picture?", [ONE]),
    ("is <image> blue?", [TWO]),
    ("<image>\n\nor\n<image>", [ONE, TWO]),
    ("which? <image> <image><image>\n", [WIDE, ONE, WIDE]),
    ("no picture?", []),
]


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-gemma3")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return Theirs(checkpoint)


@pytest.fixture(scope="module")
def artifact(checkpoint, tmp_path_factory):
    """All or five of 16 tokens a picture, for both engines and in every kind of precision; read
    only."""
    options = ExportOptions(
        "received-attention",
        budgets=(N, K),
        decoder="both",
        vision_precisions=("fp32", "int8"),
        decoder_precisions=("fp32", "int8", "int4"),
        gguf_types=("f32", "q8_0"),
    )
    return write_once(
        tmp_path_factory, "gemma3", lambda folder: export(str(checkpoint), folder, options)
    )


@pytest.fixture(scope="module", params=["onnx", "llama.cpp"])
def vlm(request, artifact):
    return load_exact(artifact, request.param)


def pocketvlm(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def kept_of(answer):
    return [np.array(each) for each in answer.kept_indices]


def test_the_manifest_says_what_a_client_must_know(artifact):
    manifest = Artifact.open(artifact).manifest
    assert manifest.requires["onnxruntime"] == ">=1.30"
    decoder = manifest.decoder
    assert (decoder.attention, decoder.positions) == ("pictures", "contiguous")
    assert decoder.eos_token_ids == (1, 106)
    assert decoder.picture_text.placeholder == "<start_of_image>"
    graph = onnx.load(artifact / decoder.graphs["fp32"], load_external_data=False).graph
    fused = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert len(fused) == 3
    for node in fused:
        assert {a.name: a.i for a in node.attribute if a.name == "causal"} == {"causal": 0}
        assert not [a for a in node.attribute if a.name == "local_window_size"]


@pytest.mark.parametrize(("prompt", "images"), QUESTIONS)
def test_with_all_tokens_it_answers_as_the_class(vlm, theirs, prompt, images):
    answer = vlm.generate(prompt, images, sampling=MANY)
    inputs = theirs.prepare(prompt, images)
    assert answer.token_ids == theirs.answer(inputs, STEPS)[0]
    assert answer.prompt_tokens["total"] == inputs["input_ids"].shape[1]


@pytest.mark.parametrize(("prompt", "images"), QUESTIONS[:4])
def test_pruned_it_answers_as_the_class_without_the_dropped_tokens(vlm, theirs, prompt, images):
    answer = vlm.generate(prompt, images, sampling=MANY, budget=K)
    inputs = theirs.prepare(prompt, images, K)
    kept = kept_of(answer)
    assert [len(each) for each in kept] == [K] * len(images)
    assert answer.token_ids == theirs.answer_kept(inputs, kept, STEPS)[0]
    assert answer.visual_tokens == {"before": N * len(images), "after": K * len(images)}


@pytest.mark.parametrize(("engine", "bound"), [("onnx", 3e-5), ("llama.cpp", 1e-3)])
def test_logits_are_the_classes(artifact, theirs, engine, bound):
    """Before each token of an answer about two pictures; llama.cpp rounds an activation."""
    vlm, images = load_exact(artifact, engine), [ONE, TWO]
    prompt = "<image>\n\nor\n<image>"
    viewer, prompter = vlm.parts.viewer, vlm.parts.prompter
    prepared = viewer.prepare(images, K)
    features = [viewer.encode(each, cached=False) for each in prepared]
    ids = prompter.place(prompter.encode(prompt, 2), [each.ids for each in prepared])
    inputs = theirs.prepare(prompt, images, K)
    assert ids.tolist() == inputs["input_ids"][0].tolist()
    kept = [np.array(each.kept_indices) for each in prepared]
    every = theirs.features(inputs["pixel_values"]).numpy()
    for number, at in enumerate(kept):
        expected = every[number][at]
        close = 1e-5 * np.abs(every).max()
        np.testing.assert_allclose(features[number].inputs_embeds, expected, atol=close)
    tokens, logits = theirs.answer_kept(inputs, kept, STEPS)
    sequence = vlm.parts.decoder.sequence()
    ours = [sequence.prefill(prompter.segments(ids, features))]
    ours += [sequence.decode(token) for token in tokens[:-1]]
    close = bound * max(np.abs(row).max() for row in logits)
    np.testing.assert_allclose(np.stack(ours), np.stack(logits), atol=close)
    inputs["token_type_ids"][:] = 0
    _, causal = theirs.answer_kept(inputs, kept, 1)
    assert np.abs(causal[0] - logits[0]).max() > 20 * close


def test_turns_read_on_from_the_cache(vlm, theirs):
    chat = vlm.chat()
    first = chat.ask("what is <image>?", [ONE], sampling=MANY)
    second = chat.ask("and <image>?", [TWO], sampling=MANY)
    third = chat.ask("which?", sampling=MANY)
    assert second.prompt_tokens["cached"] >= first.prompt_tokens["total"] - 1
    assert third.prompt_tokens["cached"] > second.prompt_tokens["cached"]
    said = [{"type": "text", "text": first.text.strip()}]
    messages = [
        {"role": "user", "content": parts("what is <image>?", [ONE])},
        {"role": "assistant", "content": said},
        {"role": "user", "content": parts("and <image>?", [TWO])},
    ]
    inputs = theirs.prepare(messages, [])
    assert second.prompt_tokens["total"] == inputs["input_ids"].shape[1]
    assert second.token_ids == theirs.answer(inputs, STEPS)[0]


def test_the_same_picture_twice_and_a_second_question_cost_no_second_look(
    artifact, tmp_path, monkeypatch
):
    load = {"feature_cache": tmp_path / "features"}
    first = VLM.load(artifact, **load).generate("what?", [ONE], sampling=MANY)
    again = VLM.load(artifact, **load)
    monkeypatch.setattr(VisionEncoder, "encode", None)
    assert again.generate("what?", [ONE], sampling=MANY).token_ids == first.token_ids
    twice = again.generate("<image> or <image>?", [ONE, ONE], sampling=MANY)
    assert twice.kept_indices == first.kept_indices * 2


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_other_precisions_answer(artifact, precision):
    vlm = VLM.load(artifact, decoder="onnx", decoder_precision=precision)
    answer = vlm.generate("what?", [ONE], sampling=Sampling(max_new_tokens=3))
    assert answer.decoder == f"onnx {precision}"
    assert len(answer.token_ids) == 3


def test_a_picture_beyond_what_llama_cpp_reads_at_once_is_refused(artifact):
    """It would end the process."""
    sequence = load_exact(artifact, "llama.cpp").parts.decoder.sequence()
    rows = np.zeros((513, 64), np.float32)
    with pytest.raises(EngineError, match="513 tokens of a picture attend to each other"):
        sequence.prefill([EmbeddingSegment(rows)])
    assert sequence.length == 0
    sequence.prefill([EmbeddingSegment(rows[:512])])


def copied(artifact, folder, changed):
    """A copy whose float32 decoder graph has been changed, with a manifest that fits."""
    shutil.copytree(artifact, folder)
    path = folder / Artifact.open(artifact).manifest.decoder.graphs["fp32"]
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            changed(node)
    onnx.save(model, path)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest)
    return folder


def test_a_decoder_that_hides_what_lies_behind_fails_the_gate(artifact, checkpoint, tmp_path):
    def causal(node):
        (own,) = [each for each in node.attribute if each.name == "causal"]
        node.attribute.remove(own)

    same = copied(artifact, tmp_path / "same", lambda node: None)
    assert verify_against(same, str(checkpoint))["decoder"]["passed"]
    broken = copied(artifact, tmp_path / "broken", causal)
    with pytest.raises(ParityError, match="decoder"):
        verify_against(broken, str(checkpoint))


def test_llama_cpp_that_is_not_told_fails_the_gate(artifact, checkpoint, monkeypatch):
    monkeypatch.setattr(library(), "llama_set_causal_attn", lambda context, causal: None)
    with pytest.raises(ParityError, match="f32"):
        verify_against(artifact, str(checkpoint))


def test_commands_work_on_it(artifact, tmp_path):
    ONE.save(tmp_path / "photo.png")
    inspected = pocketvlm("inspect", artifact)
    assert "attention  tokens of one picture attend to each other" in inspected.stdout
    drawn = ["inspect", artifact, "--image", tmp_path / "photo.png", "--overlay"]
    assert f"{N} patches kept" in pocketvlm(*drawn, tmp_path / "kept.png").stdout
    profile = ["profile", artifact, "--repeat", 1, "--warmup", 0, "--picture-size", "120x80"]
    result = pocketvlm(*profile, "-o", tmp_path / "p.jsonl")
    assert result.exit_code == 0, result.stderr


def test_the_pages_beside_it_say_how_pictures_are_seen(artifact, theirs):
    page, card = (artifact / "USING.md").read_text(), (artifact / "README.md").read_text()
    assert "The tokens of a picture attend to each other in both directions" in page
    assert "In the decoder tokens of one picture attend to each other in both directions." in card
    using = json.loads((artifact / "using.json").read_text())
    assert using["attention"] == "pictures"
    assert "The decoder graph needs ONNX Runtime >=1.30" in page
    assert using["graphs"]["decoder"]["inputs"]["picture_ids"] == ["batch", "tokens"]
    prompt = using["prompt"]
    expected = theirs.prepare(prompt["question"], [ONE], 1)["input_ids"][0]
    assert prompt["ids"] == expected.tolist()
    assert "\n\n<start_of_image><image_soft_token><end_of_image>\n\n" in prompt["text"]
