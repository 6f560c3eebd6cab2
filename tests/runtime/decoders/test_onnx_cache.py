"""The cache of an ONNX sequence, without a graph: what is cut, and what cannot be."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.decoders.onnx_cache import OnnxCache
from pocketvlm.ort.signatures import CacheTensor

HIDDEN, WIDTH = 4, 3
STATE = CacheTensor(0, "past_conv.0", "present_conv.0", (None, HIDDEN, WIDTH), grows=False)
KEY = CacheTensor(1, "past_key_values.1.key", "present.1.key", (None, 1, None, 2), grows=True)


def fill(cache, tensors, read):
    """What a graph gives after the numbers in ``read``: the last of them as a state, all as
    keys."""
    made = {
        STATE: np.array([0.0] * WIDTH + read)[-WIDTH:] * np.ones((1, HIDDEN, 1)),
        KEY: np.array(read)[None, None, :, None] * np.ones((1, 1, 1, 2)),
    }
    values = [ort.OrtValue.ortvalue_from_numpy(made[each].astype(np.float32)) for each in tensors]
    cache.store(values, len(read))


def numbers(cache):
    return {name: value.numpy() for name, value in cache.inputs.items()}


def test_before_the_first_token_it_is_zeros_and_nothing():
    cache = OnnxCache([STATE, KEY])
    held = numbers(cache)
    assert held["past_conv.0"].shape == (1, HIDDEN, WIDTH)
    assert not held["past_conv.0"].any()
    assert held["past_key_values.1.key"].shape == (1, 1, 0, 2)
    assert cache.bytes == 0


def test_keys_alone_are_cut_to_any_length():
    cache = OnnxCache([KEY])
    fill(cache, [KEY], [1.0, 2.0, 3.0])
    assert cache.within(2) == 2
    cache.cut(2)
    assert numbers(cache)["past_key_values.1.key"][0, 0, :, 0].tolist() == [1, 2]
    assert cache.length_of(1) == 2


def test_without_a_mark_only_the_last_token_is_taken_back():
    cache = OnnxCache([STATE, KEY])
    fill(cache, [STATE, KEY], [1.0, 2.0, 3.0, 4.0])
    assert [cache.within(length) for length in (5, 4, 3, 2)] == [4, 4, 3, 0]
    cache.cut(3)
    held = numbers(cache)
    assert held["past_conv.0"][0, 0].tolist() == [0, 2, 3]  # the oldest is never read
    assert held["past_key_values.1.key"][0, 0, :, 0].tolist() == [1, 2, 3]
    assert cache.within(2) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_every_marked_length_and_the_one_before_is_reached(steps, data):
    cache, read, marks = OnnxCache([STATE, KEY]), [], []
    for step in steps:
        read += [float(len(read) + each + 1) for each in range(step)]
        fill(cache, [STATE, KEY], read)
        cache.mark()
        marks.append(len(read))
    wanted = data.draw(st.integers(0, len(read)))
    reached = [mark - back for mark in marks for back in (0, 1)]
    within = cache.within(wanted)
    assert within == max([each for each in reached if each <= wanted], default=0)
    cache.cut(within)
    if within:
        held = numbers(cache)
        expected = ([0.0] * WIDTH + read[:within])[-WIDTH:]
        assert held["past_conv.0"][0, 0, 1:].tolist() == expected[1:]
        assert held["past_key_values.1.key"][0, 0, :, 0].tolist() == read[:within]


def test_states_are_held_for_a_bounded_number_of_lengths():
    cache = OnnxCache([STATE, KEY])
    for length in range(1, 200):
        fill(cache, [STATE, KEY], [1.0] * length)
        cache.mark()
        cache.mark()  # a second time holds no second
    assert cache.bytes <= 4 * (64 * HIDDEN * WIDTH + 199 * 2)
    assert cache.within(100) == 0
    assert cache.within(150) == 150


@pytest.mark.parametrize("length", [0, 3])
def test_cut_to_nothing_or_to_what_it_is(length):
    cache = OnnxCache([STATE, KEY])
    fill(cache, [STATE, KEY], [1.0, 2.0, 3.0])
    cache.cut(length)
    assert cache.length_of(1) == length
    assert (cache.bytes == 0) == (length == 0)
