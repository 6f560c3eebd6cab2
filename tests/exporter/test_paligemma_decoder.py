"""Gemma and Gemma 2 as PaliGemma has them: prompts that see themselves both ways, positions from 1,
softcaps, windows; against the vectors of transformers' class, and the class itself."""

import numpy as np
import pytest
import torch

from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm_export.onnx_passes import DynamicInt8, TieHead, UntieHead
from support.paligemma import IMAGE, OWN, Golden, fused, graphs_of, opened, paligemma

NEAR = 3e-5
WINDOW = 6  # fewer tokens than the prompt has


@pytest.fixture(scope="module", params=OWN)
def decoder_type(request):
    return request.param


@pytest.fixture(scope="module")
def golden(decoder_type):
    return Golden.of(decoder_type)


@pytest.fixture(scope="module")
def traced(decoder_type):
    return graphs_of(paligemma(decoder_type))


@pytest.fixture(scope="module")
def decoders(traced):
    """As traced, and as an export makes it."""
    decoder, embed = traced
    return {"portable": opened(decoder, embed), "fused": opened(fused(decoder), embed)}


def segments_of(golden):
    pictures = int((golden.ids == IMAGE).sum())
    picture = EmbeddingSegment(golden.inputs_embeds[:pictures], "picture")
    return [picture, TokenSegment(golden.ids[pictures:])]


@pytest.mark.parametrize("kind", ["portable", "fused"])
def test_vectors(golden, decoders, kind):
    sequence = decoders[kind].sequence()
    logits = sequence.prefill(segments_of(golden))
    np.testing.assert_allclose(logits, golden.logits_prefill, rtol=0, atol=NEAR)
    assert np.abs(logits - golden.logits_causal).max() > 0.1
    answer = []
    for _ in golden.greedy:
        answer.append(int(np.argmax(logits)))
        logits = sequence.decode(answer[-1])
    assert answer == golden.greedy
    np.testing.assert_allclose(logits, golden.logits_last, rtol=0, atol=NEAR)
    assert (sequence.length, sequence.next_position) == (12 + 14, 1 + 12 + 14)


def test_a_longer_prompt_is_read_anew(golden, decoders):
    """Nothing that a shorter one has put into the cache holds for a longer one."""
    segments = segments_of(golden)
    cached = CachedSequence(decoders["fused"].sequence())
    cached.prefill([*segments[:1], TokenSegment(golden.ids[5:8])])
    cached.decode(7)
    logits, reused = cached.prefill(segments)
    assert reused == 0
    np.testing.assert_allclose(logits, golden.logits_prefill, rtol=0, atol=NEAR)


def test_everything_is_fused(golden, traced):
    decoder, kinds = traced[0], [node.op_type for node in fused(traced[0]).graph]
    norms = kinds.count("SimplifiedLayerNormalization")
    # Gemma 2 has a norm before and behind each half of a layer, Gemma one before it.
    softcapped = "Tanh" in [node.op_type for node in decoder.graph]
    assert kinds.count("GroupQueryAttention") == 3
    assert kinds.count("SkipSimplifiedLayerNormalization") + norms == (13 if softcapped else 7)
    assert kinds.count("Tanh") == int(softcapped)  # the head's alone
    assert kinds.count("Gemm") == 1
    assert not {"Softmax", "Neg", "Reciprocal"} & set(kinds)
    caps = [
        node.attributes["softcap"].as_float()
        for node in fused(decoder).graph
        if "softcap" in node.attributes
    ]
    assert caps == ([50.0] * 3 if softcapped else [])


def test_the_table_is_stored_in_eight_bits_though_its_rows_are_scaled(traced):
    embed = traced[1].clone()
    DynamicInt8()(embed)
    kinds = [node.op_type for node in embed.graph]
    assert kinds.count("Gather") == 2  # integers and scales
    ids = np.array([7, 20, 31])
    exact, rounded = (
        opened(traced[0], each).sequence().prefill([TokenSegment(ids)])
        for each in (traced[1], embed)
    )
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_a_head_is_turned_back_behind_its_softcap(traced):
    decoder = traced[0].clone()
    TieHead()(decoder)
    UntieHead()(decoder)
    kinds = [node.op_type for node in decoder.graph]
    assert "Gemm" not in kinds
    assert kinds.count("MatMul") == [node.op_type for node in traced[0].graph].count("MatMul")


@torch.inference_mode()
def test_windows_hide_nothing_of_a_prompt_and_all_before_them_of_an_answer():
    model, golden = paligemma("gemma2", sliding_window=WINDOW), Golden.of("gemma2")
    decoder, embed = graphs_of(model)
    sequence = opened(fused(decoder), embed).sequence()
    embeds = torch.from_numpy(golden.inputs_embeds)[None]
    kinds = torch.zeros(embeds.shape[:2], dtype=torch.int64)
    output = model(inputs_embeds=embeds, token_type_ids=kinds, use_cache=True)
    logits = sequence.prefill(segments_of(golden))
    np.testing.assert_allclose(logits, output.logits[0, -1], rtol=0, atol=NEAR)
    for token in golden.greedy[:9]:
        output = model(
            input_ids=torch.tensor([[token]]),
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        logits = sequence.decode(token)
        np.testing.assert_allclose(logits, output.logits[0, -1], rtol=0, atol=NEAR)
