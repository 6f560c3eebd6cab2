"""A decoder that says what its attention pays to each token: against numpy, over prompts read in
one run and in several, and graphs that are not sound."""

import numpy as np
import onnx
import pytest

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.onnx import OnnxDecoder
from pocketvlm.decoders.scoring import ScoringDecoder
from support.tiny_artifact import (
    give_gguf,
    give_scores,
    read_manifest,
    write_artifact,
    write_manifest,
)
from support.tiny_graphs import HIDDEN, reference_scores


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An artifact, and its weights."""
    root = tmp_path_factory.mktemp("scoring") / "guide"
    weights = write_artifact(root)
    give_scores(root, weights)
    return root, weights


@pytest.fixture
def sequence(tiny):
    decoder = open_decoder(Artifact.open(tiny[0]))
    assert isinstance(decoder, ScoringDecoder)
    sequence = decoder.sequence()
    yield sequence
    sequence.close()


def text(*ids):
    return TokenSegment(np.array(ids, dtype=np.int64))


def a_picture(tokens, seed=0):
    rows = np.random.default_rng(seed).normal(size=(tokens, HIDDEN))
    return EmbeddingSegment(rows.astype(np.float32), key=str(seed))


def embeds(weights, segments):
    return np.concatenate(
        [
            segment.inputs_embeds
            if isinstance(segment, EmbeddingSegment)
            else weights.embed[segment.ids]
            for segment in segments
        ]
    )


def places(segments):
    return np.concatenate(
        [np.full(len(each), isinstance(each, EmbeddingSegment)) for each in segments]
    )


PROMPTS = {
    "one picture": [text(1, 2, 3), a_picture(5), text(4, 5)],
    "two pictures": [text(1), a_picture(4), text(2, 2), a_picture(3, 1), text(6, 7, 8)],
    "a picture last": [text(1, 2), a_picture(5)],
    "a picture first": [a_picture(5), text(9)],
}


@pytest.mark.parametrize("segments", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_and_its_answer_against_numpy(tiny, sequence, segments):
    _, weights = tiny
    answered = [3, 1, 4]
    sequence.prefill(segments)
    for token in answered:
        sequence.decode(token)
    everything = [*segments, text(*answered)]
    visual = places(everything)
    first = np.flatnonzero(visual)[-1] + 1
    expected = reference_scores(weights, embeds(weights, everything), first)[visual]
    np.testing.assert_allclose(sequence.visual_scores, expected, atol=1e-5)
    assert 0 < sequence.visual_scores.sum() < 2 * (len(visual) - first)  # two layers, one head


def test_a_second_question_begins_anew(tiny, sequence):
    """Its pictures lie in the cache: every row that is read pays."""
    _, weights = tiny
    prompt, question = [text(1, 2), a_picture(6), text(3, 4)], [text(8, 9, 10)]
    sequence.prefill(prompt)
    sequence.decode(5)
    sequence.keep(sequence.length - 1)
    sequence.prefill(question)
    everything = [*prompt, *question]
    visual = places(everything)
    expected = reference_scores(weights, embeds(weights, everything), len(visual) - 3)[visual]
    np.testing.assert_allclose(sequence.visual_scores, expected, atol=1e-5)
    sequence.keep(1)
    sequence.prefill(question)
    assert sequence.visual_scores.shape == (0,)


def test_text_alone_pays_nothing(sequence):
    sequence.prefill([text(1, 2, 3)])
    sequence.decode(4)
    assert sequence.visual_scores.shape == (0,)


def test_it_answers_as_it_would_without(tiny, tmp_path):
    root, _ = tiny
    write_artifact(tmp_path / "plain")
    picture = np.random.default_rng(3).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    asked = {"images": [picture], "sampling": Sampling(max_new_tokens=6)}
    ours, theirs = (
        VLM.load(path).generate("what?", **asked) for path in (root, tmp_path / "plain")
    )
    assert ours.token_ids == theirs.token_ids
    assert isinstance(open_decoder(Artifact.open(tmp_path / "plain")), OnnxDecoder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scores", "yes", "scores must be boolean"),
        ("attention", "pictures", "scores tokens and has attention that is not causal"),
        ("positions", "mrope", "scores tokens and numbers them by rows and columns"),
        ("conv_layers", [0], "convolutions have no width"),
    ],
)
def test_a_manifest_that_promises_too_much(tiny, tmp_path, field, value, message):
    weights = write_artifact(tmp_path / "a")
    give_scores(tmp_path / "a", weights)
    data = read_manifest(tmp_path / "a")
    data["decoder"][field] = value
    write_manifest(tmp_path / "a", data)
    with pytest.raises(PocketVLMError, match=message):
        Artifact.open(tmp_path / "a")


def test_llama_cpp_cannot(tmp_path):
    pytest.importorskip("gguf")
    weights = write_artifact(tmp_path / "a")
    give_scores(tmp_path / "a", weights)
    give_gguf(tmp_path / "a")
    with pytest.raises(PocketVLMError, match="does not say what attention pays"):
        Artifact.open(tmp_path / "a")


def test_scores_that_the_manifest_does_not_state_are_another_kind_of_graph(tiny, tmp_path):
    weights = write_artifact(tmp_path / "a")
    give_scores(tmp_path / "a", weights)
    data = read_manifest(tmp_path / "a")
    del data["decoder"]["scores"]
    write_manifest(tmp_path / "a", data)
    with pytest.raises(PocketVLMError, match=r"carries pocketvlm.graph=decoder_scores"):
        VLM.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("operator", "message"), [("Acosh", "not finite"), ("Transpose", "token_scores of shape")]
)
def test_a_graph_that_computes_something_else(tiny, tmp_path, operator, message):
    weights = write_artifact(tmp_path / "a")
    give_scores(tmp_path / "a", weights)
    path = tmp_path / "a" / "onnx" / "decoder_model_merged.onnx"
    model = onnx.load(path)
    (added,) = [node for node in model.graph.node if node.output[0] == "token_scores"]
    added.output[0] = "sum"
    model.graph.node.append(onnx.helper.make_node(operator, ["sum"], ["token_scores"]))
    onnx.save(model, path)
    write_manifest(tmp_path / "a", read_manifest(tmp_path / "a"))
    sequence = open_decoder(Artifact.open(tmp_path / "a")).sequence()
    with pytest.raises(PocketVLMError, match=message):
        sequence.prefill([a_picture(3), text(1)])
    assert sequence.length == 0
