"""The ONNX decoder and its cache, against causal attention in numpy over the whole sequence at
once."""

import dataclasses

import numpy as np
import onnx
import pytest

from pocketvlm import Artifact, EngineSettings, PocketVLMError
from pocketvlm.decoders import open_decoder
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.errors import ArtifactError
from support.tiny_artifact import read_manifest, write_artifact, write_manifest
from support.tiny_graphs import CONTEXT, HIDDEN, LAYERS, reference_logits


@pytest.fixture(params=[True, False], ids=["prepacked", "mapped"])
def model(request, tmp_path):
    weights = write_artifact(tmp_path / "a")
    settings = EngineSettings(prepack=request.param)
    return open_decoder(Artifact.open(tmp_path / "a"), settings=settings).sequence(), weights


def tokens(*ids):
    return TokenSegment(np.array(ids, np.int64))


def assert_logits(actual, weights, embeddings):
    assert (actual.dtype, actual.shape) == (np.float32, (len(weights.embed),))
    np.testing.assert_allclose(
        actual, reference_logits(weights, np.stack(embeddings)), rtol=1e-3, atol=1e-3
    )


def test_prefill_and_decode_equal_the_whole_sequence_at_once(model):
    sequence, weights = model
    picture = np.random.default_rng(1).normal(size=(5, HIDDEN)).astype(np.float32)
    ids = [7, 3, 250, 11]
    embeddings = [
        weights.embed[7],
        weights.embed[3],
        *picture,
        weights.embed[250],
        weights.embed[11],
    ]
    logits = sequence.prefill([tokens(*ids[:2]), EmbeddingSegment(picture), tokens(*ids[2:])])
    assert_logits(logits, weights, embeddings)
    assert sequence.length == sequence.next_position == 9
    assert set(sequence.timings_ms) == {"embed", "prefill"}
    for token in (42, 1, 200):
        embeddings.append(weights.embed[token])
        assert_logits(sequence.decode(token), weights, embeddings)
    # a second prefill continues the sequence, as the next turn of a chat does
    embeddings += [weights.embed[5], weights.embed[6]]
    assert_logits(sequence.prefill([tokens(5, 6)]), weights, embeddings)
    assert sequence.length == len(embeddings)


def test_reset_forgets(model):
    sequence, weights = model
    sequence.prefill([tokens(1, 2, 3)])
    sequence.reset()
    assert sequence.length == 0
    assert_logits(sequence.prefill([tokens(9)]), weights, [weights.embed[9]])


def test_the_context_is_checked_before_anything_moves(model):
    sequence, _ = model
    with pytest.raises(
        PocketVLMError, match=f"{CONTEXT + 1} tokens are more than the model's context of {CONTEXT}"
    ):
        sequence.prefill([tokens(*[1] * (CONTEXT + 1))])
    assert sequence.length == 0
    sequence.prefill([tokens(*[1] * CONTEXT)])
    with pytest.raises(PocketVLMError, match="context"):
        sequence.decode(1)
    assert sequence.length == CONTEXT


def test_a_failed_run_leaves_the_sequence_as_it_was(model):
    sequence, weights = model
    sequence.prefill([tokens(4, 5)])
    with pytest.raises(PocketVLMError, match="embedding graph failed"):
        sequence.decode(1 << 20)
    assert_logits(sequence.decode(6), weights, [weights.embed[i] for i in (4, 5, 6)])


def test_features_of_another_width_are_refused(model):
    with pytest.raises(ArtifactError, match="4 wide, the decoder reads 8"):
        model[0].prefill([EmbeddingSegment(np.zeros((3, 4), np.float32))])
    with pytest.raises(PocketVLMError, match="no tokens"):
        model[0].prefill([])


def test_sequences_share_the_graphs_and_know_nothing_of_each_other(tmp_path):
    weights = write_artifact(tmp_path / "a")
    decoder = open_decoder(Artifact.open(tmp_path / "a"))
    first, second = decoder.sequence(), decoder.sequence()
    assert_logits(first.prefill([tokens(1, 2)]), weights, [weights.embed[i] for i in (1, 2)])
    assert_logits(second.prefill([tokens(9)]), weights, [weights.embed[9]])
    assert_logits(first.decode(3), weights, [weights.embed[i] for i in (1, 2, 3)])
    first.reset()
    assert_logits(second.decode(8), weights, [weights.embed[i] for i in (9, 8)])
    decoder.close()
    decoder.close()
    with pytest.raises(PocketVLMError, match="onnx fp32 is closed: load the model again"):
        decoder.sequence()
    assert_logits(second.decode(7), weights, [weights.embed[i] for i in (9, 8, 7)])
    second.close()
    second.close()
    with pytest.raises(PocketVLMError, match="this sequence is closed"):
        second.decode(1)


def test_the_bytes_of_a_cache_are_a_key_and_a_value_of_each_token_and_layer(model):
    sequence, _ = model
    assert sequence.cache_bytes == 0
    sequence.prefill([tokens(1, 2, 3)])
    sequence.decode(4)
    each = 2 * LAYERS * HIDDEN * 4  # a key and a value a layer, one head in float32
    assert sequence.cache_bytes == 4 * each
    sequence.keep(2)
    assert sequence.cache_bytes == 2 * each
    sequence.reset()
    assert sequence.cache_bytes == 0


def test_engines_that_are_not_there_are_refused(artifact_dir):
    artifact = Artifact.open(artifact_dir)
    with pytest.raises(
        PocketVLMError, match=r"'llama\.cpp' is not in this artifact, which has onnx"
    ):
        open_decoder(artifact, engine="llama.cpp")
    data = read_manifest(artifact_dir)
    data["decoder"] |= {"engines": ["quantum"], "default_engine": "quantum"}
    write_manifest(artifact_dir, data)
    with pytest.raises(PocketVLMError, match="'quantum' is unknown to this runtime"):
        open_decoder(Artifact.open(artifact_dir))


def test_a_graph_without_the_layers_the_manifest_promises_is_refused(artifact_dir):
    data = read_manifest(artifact_dir)
    data["decoder"]["layers"] = 3
    write_manifest(artifact_dir, data)
    with pytest.raises(PocketVLMError, match=r"past_key_values\.2\.key"):
        open_decoder(Artifact.open(artifact_dir))


@pytest.mark.parametrize(
    ("dimension", "value", "tensor"),
    [
        ("hidden", HIDDEN + 1, "inputs_embeds"),
        ("vocab", 10_000, "logits"),
        ("kv_heads", 2, r"past_key_values\.0\.key"),
        ("head_dim", 4, r"past_key_values\.0\.key"),
    ],
)
def test_graphs_of_other_dimensions_than_the_manifest_says_are_refused(
    artifact_dir, dimension, value, tensor
):
    data = read_manifest(artifact_dir)
    data["decoder"][dimension] = value
    write_manifest(artifact_dir, data)
    with pytest.raises(
        PocketVLMError, match=rf"{tensor} of shape \(.*\), the manifest says \(.*{value}"
    ):
        open_decoder(Artifact.open(artifact_dir))


def test_a_dimension_that_the_graph_leaves_open_is_refused(artifact_dir):
    path = artifact_dir / "onnx" / "decoder_model_merged.onnx"
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "width"
    onnx.save(model, path)
    write_manifest(artifact_dir, read_manifest(artifact_dir))
    with pytest.raises(PocketVLMError, match=r"inputs_embeds of shape \(batch_size, n, width\)"):
        open_decoder(Artifact.open(artifact_dir))


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        ("mrope", r"position_ids of shape \(.*\), the manifest says \(3, any, any\)"),
        ("spiral", "positions 'spiral' are not one of contiguous, mrope"),
        ("", "positions"),
        (3, "positions"),
    ],
)
def test_positions_that_the_graph_or_the_runtime_does_not_have_are_refused(
    artifact_dir, positions, reason
):
    data = read_manifest(artifact_dir)
    data["decoder"]["positions"] = positions
    write_manifest(artifact_dir, data)
    with pytest.raises(ArtifactError, match=reason) as refusal:
        open_decoder(Artifact.open(artifact_dir))
    assert "\n" not in str(refusal.value)


def test_the_table_that_goes_with_a_decoder(tmp_path):
    weights = write_artifact(tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    manifest["decoder"] |= {"tables": {"fp32": "other"}}
    write_manifest(tmp_path / "a", manifest)
    with pytest.raises(PocketVLMError, match="a decoder's embedding table is missing"):
        Artifact.open(tmp_path / "a")
    table = manifest["decoder"]["embed"]["fp32"]
    manifest["decoder"]["embed"] = {"missing": table, "other": table}
    write_manifest(tmp_path / "a", manifest)
    logits = open_decoder(Artifact.open(tmp_path / "a")).sequence().prefill([tokens(5)])
    assert_logits(logits, weights, [weights.embed[5]])


def test_positions_from_one_on(tmp_path):
    weights = write_artifact(tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    manifest["decoder"]["first_position"] = 1
    write_manifest(tmp_path / "a", manifest)
    sequence = open_decoder(Artifact.open(tmp_path / "a")).sequence()
    shifted = dataclasses.replace(weights, position=weights.position[1:])
    embeddings = []
    for token in (7, 3, 250):  # one by one: this graph reads off positions what a query sees
        embeddings.append(weights.embed[token])
        assert_logits(sequence.prefill([tokens(token)]), shifted, embeddings)
    assert (sequence.length, sequence.next_position) == (3, 4)
    sequence.keep(1)
    assert (sequence.length, sequence.next_position) == (1, 2)
    assert_logits(sequence.decode(9), shifted, [embeddings[0], weights.embed[9]])
