"""Decoders with layers of convolutions: one graph for prefill and decode, whose states are cut only
where they were kept, against transformers' model over the whole sequence at once."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvlm import EngineSettings, PocketVLMError
from pocketvlm.decoders.gguf_header import read_header
from pocketvlm.decoders.llama_cpp import LlamaCppDecoder
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm_export.gguf import architecture
from support.gguf_files import HAS_LLAMA_CPP
from support.gguf_of_models import write_model
from support.tiny_hybrid import (
    CONTEXT,
    HIDDEN,
    LAYER_TYPES,
    PREFIXES,
    VOCAB,
    logits_after,
    onnx_decoder,
    picture,
    spec_of,
    text,
    tiny_hybrid,
)

NEAR = 3e-5
ENGINES = [
    "onnx",
    pytest.param(
        "llama.cpp",
        marks=pytest.mark.skipif(not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed"),
    ),
]


@pytest.fixture(scope="module")
def model():
    return tiny_hybrid()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    return write_model(model, spec_of(model), folder, prefixes=PREFIXES)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def decoder(model, engine, request):
    if engine == "onnx":
        return onnx_decoder(model)
    return LlamaCppDecoder.from_file(
        request.getfixturevalue("file"),
        context=CONTEXT,
        hidden=HIDDEN,
        vocab=VOCAB,
        f32_cache=True,
        settings=EngineSettings(threads=1),
    )


def near(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=NEAR)


def test_prefill_and_decode_equal_the_whole_sequence_at_once(model, decoder):
    sequence = decoder.sequence()
    read = [text(5, 6, 7), picture(9), text(8)]
    near(sequence.prefill(read), logits_after(model, read))
    for token in (11, 12, 13, 14):
        read.append(text(token))
        near(sequence.decode(token), logits_after(model, read))
    read += [text(3, 1), picture(4, seed=1), text(9, 9)]
    near(sequence.prefill(read[-3:]), logits_after(model, read))


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_a_sequence_shorter_than_the_kernel_is_read_as_transformers_reads_it(
    model, decoder, tokens
):
    sequence, read = decoder.sequence(), []
    for token in range(4, 4 + tokens):
        read.append(text(token))
        near(sequence.prefill([text(token)]), logits_after(model, read))


# lengths asked for -> left: where a prefill began or ended, and the token before its end
CUTS = {
    "onnx": ((12, 12), (11, 11), (10, 10), (9, 8), (6, 5), (5, 5), (4, 4), (3, 0)),
    "llama.cpp": ((12, 12), (11, 10), (9, 8), (7, 4), (3, 0)),
}


def test_a_sequence_is_cut_to_where_a_prefill_began_or_ended(model, decoder, engine):
    sequence = decoder.sequence()
    sequence.prefill([text(1, 2, 3, 4, 5)])
    for token in (6, 7, 8):
        sequence.decode(token)
    sequence.prefill([text(9, 10, 11)])
    sequence.decode(12)
    for length, left in CUTS[engine]:
        sequence.keep(length)
        assert sequence.length == left
    near(sequence.prefill([text(7)]), logits_after(model, [text(7)]))


def test_after_one_token_was_taken_back_no_second_is(model, decoder, engine):
    if engine != "onnx":
        pytest.skip("its states are copies of one length each")
    sequence = decoder.sequence()
    sequence.prefill([text(1, 2, 3, 4, 5)])
    sequence.keep(4)
    assert sequence.length == 4
    sequence.keep(3)
    assert sequence.length == 0
    sequence.prefill([text(1, 2, 3, 4, 5)])
    sequence.keep(4)
    near(sequence.decode(9), logits_after(model, [text(1, 2, 3, 4, 9)]))
    sequence.keep(4)  # the state holds enough again
    near(sequence.decode(8), logits_after(model, [text(1, 2, 3, 4, 8)]))


def test_the_same_prompt_again_costs_one_token(model, decoder):
    cached = CachedSequence(decoder.sequence())
    prompt = [text(1, 2), picture(6, key="a"), text(3, 4)]
    first, held = cached.prefill(prompt)
    assert held == 0
    for token in (20, 21, 22):
        cached.decode(token)
    again, held = cached.prefill(prompt)
    assert held == 9
    near(again, first)


def test_a_fork_begins_where_a_prefill_began_or_ended(model, decoder):
    sequence = decoder.sequence()
    prompt = [text(1, 2), picture(6, key="a"), text(3, 4)]
    sequence.prefill(prompt)
    for token in (20, 21):
        sequence.decode(token)
    whole = [*prompt, text(20, 21)]
    heads = {12: whole, 10: prompt, 9: [*prompt[:2], text(3)], 0: []}
    for length, lefts in ((12, {12}), (10, {10, 9}), (5, {0})):  # or before its last token
        left = sequence.reach(length)
        assert left in lefts
        fork = sequence.fork(length)
        assert (fork.length, sequence.length) == (left, 12)
        near(fork.prefill([text(30, 31)]), logits_after(model, [*heads[left], text(30, 31)]))
        fork.close()
    near(sequence.decode(22), logits_after(model, [*prompt, text(20, 21, 22)]))


def test_a_conversation_goes_on_behind_the_last_answer(model, decoder):
    cached = CachedSequence(decoder.sequence())
    prompt = [text(1, 2), picture(6, key="a"), text(3, 4)]
    cached.prefill(prompt)
    cached.decode(20)
    cached.decode(21)
    longer = [*prompt, text(20, 21, 2, 30, 31)]
    logits, held = cached.prefill(longer)
    assert held == 12
    near(logits, logits_after(model, longer))


# a prefill of so many tokens, a number of decoded ones, or a cut to a share of the length
STEP = st.one_of(
    st.tuples(st.just("prefill"), st.integers(1, 6)),
    st.tuples(st.just("decode"), st.integers(1, 4)),
    st.tuples(st.just("keep"), st.integers(0, 10)),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, min_size=2, max_size=8))
def test_whatever_is_cut_the_rest_is_what_was_read(model, decoder, steps):
    sequence, read = decoder.sequence(), []
    for number, (kind, count) in enumerate(steps):
        if kind == "keep":
            wanted = len(read) * count // 10
            sequence.keep(wanted)
            assert sequence.length <= wanted or sequence.length == len(read) == wanted
            read = read[: sequence.length]
            continue
        ids = [(7 * number + 3 * each) % 100 + 3 for each in range(count)]
        if kind == "prefill":
            sequence.prefill([text(*ids)])
        else:
            for token in ids:
                sequence.decode(token)
        read += ids
    assert sequence.length == len(read)
    near(sequence.decode(50), logits_after(model, [text(*read, 50)]))


def test_a_larger_cache_takes_the_states_with_it(model, decoder):
    sequence, read = decoder.sequence(), [text(*range(3, 90))]
    sequence.prefill(read)
    sequence.decode(9)
    sequence.prefill([text(*[5] * 300)])  # the first cache of llama.cpp may be smaller
    sequence.keep(len(read[0]))
    assert sequence.length in (len(read[0]), len(read[0]) - 1)
    ids = [*read[0].ids[: sequence.length], 17]
    near(sequence.decode(17), logits_after(model, [text(*ids)]))


def test_the_memory_of_states_is_counted_and_given_back(decoder, engine):
    if engine != "onnx":
        pytest.skip("llama.cpp sets its cache aside at once")
    sequence = decoder.sequence()
    sequence.prefill([text(1, 2, 3, 4)])
    one = sequence.cache_bytes
    sequence.prefill([text(5)])
    states = 4 * 32 * 3 * LAYER_TYPES.count("conv")
    rows = 4 * 2 * 2 * 8 * LAYER_TYPES.count("full_attention")
    assert sequence.cache_bytes - one == states + rows  # rows of one more token
    sequence.reset()
    assert sequence.cache_bytes == 0


def test_a_file_says_which_layers_are_convolutions(file):
    header = read_header(file)
    assert header.conv_layers == tuple(
        number for number, kind in enumerate(LAYER_TYPES) if kind == "conv"
    )
    assert (header.kv_heads, header.conv_width) == (2, 3)
    header.check(file.name, conv_layers=header.conv_layers, conv_width=3)
    with pytest.raises(PocketVLMError, match="conv_width 3, the manifest says 4"):
        header.check(file.name, conv_width=4)


def test_kernels_stay_exact_in_files_of_half_precision(model, tmp_path):
    file = write_model(model, spec_of(model), tmp_path, kind="f16", prefixes=PREFIXES)
    assert read_header(file).conv_width == 3


def test_convolutions_with_biases_are_refused_for_llama_cpp():
    model = tiny_hybrid(conv_bias=True)
    with pytest.raises(PocketVLMError, match="its convolutions have biases"):
        architecture(spec_of(model))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"layer_types": ["conv"] * 6}, "no layer of the decoder attends"),
        ({"layer_types": ["conv", "linear_attention"] * 3}, "conv or full_attention for each"),
    ],
)
def test_other_layers_are_refused(model, changed, reason):
    config = model.config.__class__(**{**model.config.to_dict(), **changed})
    with pytest.raises(PocketVLMError, match=reason):
        spec_of(type("Model", (), {"config": config}))


def test_the_width_of_the_mlp_is_what_the_class_makes_of_it(model):
    spec = spec_of(model)
    assert spec.config.intermediate_size == model.model.layers[0].feed_forward.w1.out_features == 64
