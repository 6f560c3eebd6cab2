"""Gemma and Gemma 2 as PaliGemma has them: prompts that see themselves both ways, positions from 1,
softcaps, windows; against the vectors of transformers' class, and the class itself."""

import numpy as np
import pytest
import torch
from transformers import PaliGemmaForConditionalGeneration

from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm_export.graphs.masks import two_way_masks
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


def test_windows_hide_nothing_of_a_prompt():
    """As the class makes its masks, of whole answers too."""
    config = paligemma("gemma2", sliding_window=WINDOW).config.text_config
    embeds = torch.zeros(1, 12 + 4, 64)
    kinds = torch.tensor([[0] * 12 + [1] * 4])
    expected = PaliGemmaForConditionalGeneration.create_masks_for_generate(
        config, embeds, None, None, None, token_type_ids=kinds
    )
    every = torch.ones(1, 12 + 4, dtype=torch.int64)
    made = two_way_masks(config, every, 1 - kinds, torch.float32, beyond_window=True)
    assert made.keys() == expected.keys() == {"full_attention", "sliding_attention"}
    for kind, mask in expected.items():
        assert torch.equal(made[kind] == 0, mask == 0)
    assert not torch.equal(made["full_attention"], made["sliding_attention"])
