"""Conversations with a Qwen2.5-VL artifact on both engines, against transformers' whole sequence
with the dropped tokens hidden."""

import numpy as np
import pytest

from pocketvlm import VLM, EngineSettings, Sampling
from pocketvlm.decoders.prefix import after
from pocketvlm.limits import APART
from support.gguf_files import needs_llama_cpp, read_gguf
from support.qwen_vl import Theirs, assistant, noise, user

SAMPLING = Sampling(max_new_tokens=16)
ONE_THREAD = EngineSettings(threads=1)  # several would wait for each other on a busy machine
# How far logits may be off for their size; llama.cpp's cache is in float16.
ENGINES = [
    pytest.param(("onnx", 3e-5), id="onnx"),
    pytest.param(("llama.cpp", 3e-3), id="llama.cpp", marks=needs_llama_cpp),
]
FIRST, SECOND = noise(4, 6, seed=1), noise(5, 7, seed=2)
TURNS = [
    ("what is it?", [FIRST]),
    ("and its colour?", []),
    ("is this one <image> larger?", [SECOND]),
    ("why?", []),
]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, qwen25_pruned):
    """A loaded artifact, and how far its logits may be off."""
    name, tolerance = request.param
    return VLM.load(qwen25_pruned, decoder=name, settings=ONE_THREAD, limits=APART), tolerance


@pytest.fixture(scope="module")
def theirs(qwen25, qwen25_pruned):
    return Theirs(qwen25, qwen25_pruned)


def filled(messages, pictures):
    """A conversation as `VLM.chat` tells it, with the pixels of its pictures."""
    left = iter(pictures)
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": next(left)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in messages
    ]


def test_every_turn_is_a_fresh_prompt_and_transformers(engine, theirs):
    vlm, _ = engine
    chat, messages, pictures, before = vlm.chat(), [], [], None
    for prompt, images in TURNS:
        answer = chat.ask(prompt, images, sampling=SAMPLING)
        pictures += images
        placed = iter(images)
        parts = [prompt] if "<image>" in prompt else [*images, prompt]
        if "<image>" in prompt:
            head, tail = prompt.split("<image>")
            parts = [head, next(placed), tail]
        messages.append(user(*parts))
        fresh = vlm.generate(messages=messages, sampling=SAMPLING)
        assert answer.token_ids == fresh.token_ids
        assert answer.kept_indices == fresh.kept_indices
        assert answer.prompt_tokens["total"] == fresh.prompt_tokens["total"]
        expected_ids, _ = theirs.masked(theirs.read(*messages), answer.kept_indices)
        assert answer.token_ids == expected_ids
        cached = answer.prompt_tokens["cached"]
        # What is new begins behind the last answer; its words may be other tokens when they are
        # read again.
        assert cached == 0 if before is None else cached >= before - 1
        before = answer.prompt_tokens["total"]
        messages.append(assistant(answer.text.strip()))
    assert len(pictures) == 2


def test_what_the_context_cannot_hold_is_dropped_and_the_rest_is_a_fresh_prompt(
    qwen25_pruned, engine
):
    whole, _ = engine
    engine_name = whole.decoder.split()[0]
    vlm = VLM.load(qwen25_pruned, decoder=engine_name, context=150, settings=ONE_THREAD)
    chat, pictures = vlm.chat(), []
    for prompt, images in [*TURNS, *TURNS[:2]]:
        pictures += images
        answer = chat.ask(prompt, images, sampling=SAMPLING)
    assert chat.dropped_turns
    earlier = chat.messages[:-1]
    shown = sum(part["type"] == "image" for message in earlier for part in message["content"])
    fresh = whole.generate(messages=filled(earlier, pictures[-shown:]), sampling=SAMPLING)
    assert answer.token_ids == fresh.token_ids
    assert answer.kept_indices == fresh.kept_indices


def prepared(vlm, theirs):
    """Segments of a prompt with a picture between texts, and the logits behind it."""
    inputs = theirs.read(user("first ", SECOND, " second"))
    (picture,) = vlm.parts.viewer.prepare([SECOND], 6)
    segment = vlm.parts.viewer.encode(picture, cached=False)
    prompter = vlm.parts.prompter
    ids = prompter.place(prompter.encode("first <image> second", 1), [picture.ids])
    _, logits = theirs.masked(inputs, [segment.kept.tolist()], steps=1)
    return prompter.segments(ids, [segment]), logits


@pytest.mark.parametrize("inside", [1, 3, 5, 6])
def test_a_cut_inside_a_picture_goes_back_to_its_beginning(engine, theirs, inside):
    vlm, tolerance = engine
    segments, expected = prepared(vlm, theirs)
    bound = tolerance * np.abs(expected).max()
    start = len(segments[0])
    sequence = vlm.parts.decoder.sequence()
    assert np.abs(sequence.prefill(segments) - expected).max() <= bound
    sequence.decode(7)
    sequence.keep(start + inside)
    assert sequence.length == (start + 6 if inside == 6 else start)
    again = sequence.prefill(after(segments, sequence.length))
    assert np.abs(again - expected).max() <= bound
    sequence.close()


@needs_llama_cpp
def test_engines_answer_alike(qwen25_pruned):
    onnx, exact, small = (
        VLM.load(qwen25_pruned, decoder=name, decoder_precision=precision, settings=ONE_THREAD)
        for name, precision in (("onnx", "fp32"), ("llama.cpp", "f32"), ("llama.cpp", "q8_0"))
    )
    for size in ((4, 8), (5, 7), (3, 2)):  # of which no two tokens are nearly as good
        answers = [
            vlm.generate("what?", [noise(*size)], sampling=SAMPLING) for vlm in (onnx, exact)
        ]
        assert answers[0].token_ids == answers[1].token_ids
        rounded = small.generate("what?", [noise(*size)], sampling=SAMPLING)
        assert rounded.kept_indices == answers[0].kept_indices
        assert rounded.token_ids[0] == answers[0].token_ids[0]
    assert [vlm.decoder for vlm in (onnx, exact, small)] == [
        "onnx fp32",
        "llama.cpp f32",
        "llama.cpp q8_0",
    ]


def test_the_file_for_llama_cpp_holds_the_tied_table_once(qwen25_pruned):
    tensors, fields = read_gguf(qwen25_pruned / "gguf" / "decoder-f32.gguf")
    assert fields["general.architecture"] == "qwen2vl"
    assert "token_embd.weight" in tensors
    assert "output.weight" not in tensors
