"""Decoders with M-RoPE positions on both engines, against transformers' own models and the vectors
that they gave."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pocketvlm.artifact import metadata
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import CachedSequence
from pocketvlm.errors import ArtifactError
from pocketvlm.layouts import TokenGrid
from pocketvlm.ort.signatures import signature
from support.gguf_files import HAS_LLAMA_CPP
from support.qwen_decoders import manifest_spec, onnx_decoder, open_file, write_file
from support.tiny_qwen import END, EXTRAS, IMAGE, NAMES, START, golden, tiny_qwen


@dataclass(frozen=True)
class Setup:
    """A model, its decoders by engine, and how far their logits may be off."""

    qwen: object
    decoders: dict


TOLERANCES = {"onnx": 3e-5, "llama.cpp": 3e-3}
ENGINES = [
    "onnx",
    pytest.param(
        "llama.cpp",
        marks=pytest.mark.skipif(not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed"),
    ),
]


@pytest.fixture(scope="module", params=NAMES)
def setup(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    qwen = tiny_qwen(request.param)
    decoders = {"onnx": onnx_decoder(qwen)}
    if HAS_LLAMA_CPP:
        file = folder / "tiny.gguf"
        write_file(qwen, folder, file)
        decoders["llama.cpp"] = open_file(file, extras=qwen.spec.extras)
    return Setup(qwen, decoders)


def text(*ids):
    return TokenSegment(np.array(ids, np.int64))


def picture(rows, columns, kept, seed=0):
    """With further features, which not all models read."""
    random = np.random.default_rng(seed)
    embeds, *further = random.normal(size=(4, len(kept), 64)).astype(np.float32)
    return EmbeddingSegment(
        embeds,
        f"{rows}x{columns} {seed}",
        grid=TokenGrid(rows, columns),
        kept=np.array(kept),
        extras=dict(zip(EXTRAS["qwen3_vl"], further, strict=True)),
    )


def whole(qwen, segments):
    """Unpruned inputs of a prompt: ids with IMAGE in every slot, grids, embeddings (1, S, hidden),
    and which tokens were kept. What was dropped is noise: it must not matter."""
    ids, grids, kept, parts = [], [], [], []
    for segment in segments:
        if isinstance(segment, TokenSegment):
            kept += range(len(ids), len(ids) + len(segment))
            ids += segment.ids.tolist()
            parts.append(qwen.embed(segment.ids.tolist())[0])
        else:
            grids.append(segment.grid)
            kept += (len(ids) + segment.kept).tolist()
            ids += [IMAGE] * segment.grid.tokens
            full = torch.randn(segment.grid.tokens, 64)
            full[segment.kept] = torch.from_numpy(segment.inputs_embeds)
            parts.append(full)
    return ids, grids, torch.cat(parts)[None], kept


def masked_logits(qwen, segments):
    """transformers' unpruned sequence with dropped keys masked, positions as they are; the rows of
    further features are of what is kept, which is where transformers is told that pictures are."""
    ids, grids, embeds, kept = whole(qwen, segments)
    mask = torch.zeros(1, len(ids), dtype=torch.int64)
    mask[0, kept] = 1
    positions = qwen.positions(ids, grids)[:, None]
    further = {}
    if qwen.spec.extras:
        pictures = [segment for segment in segments if isinstance(segment, EmbeddingSegment)]
        is_kept = mask.bool() & (torch.tensor([ids]) == IMAGE)
        further = {
            "visual_pos_masks": is_kept,
            "deepstack_visual_embeds": [
                torch.from_numpy(np.concatenate([each.extras[name] for each in pictures]))
                for name in qwen.spec.extras
            ],
        }
    with torch.no_grad():
        hidden = qwen.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            **further,
        ).last_hidden_state
        logits = qwen.model.lm_head(hidden[0, -1])
    return logits.numpy()


@pytest.mark.parametrize("engine", ENGINES)
def test_vectors(setup, engine, request):
    expected = golden(request.node.callspec.params["setup"])
    sequence = setup.decoders[engine].sequence()
    atol = TOLERANCES[engine]
    logits = sequence.prefill(expected.segments)
    np.testing.assert_allclose(logits, expected.logits_prefill, rtol=0, atol=atol)
    assert sequence.length == expected.position_ids.shape[1]
    assert sequence.next_position == expected.next_position
    answer = []
    for _ in expected.greedy:
        answer.append(int(np.argmax(logits)))
        logits = sequence.decode(answer[-1])
    assert answer == expected.greedy
    np.testing.assert_allclose(logits, expected.logits_last, rtol=0, atol=atol)
    assert sequence.next_position == expected.next_position + 12


PROMPTS = {
    "two tokens of 6x4": [text(1, 5, START), picture(6, 4, [3, 20]), text(END, 9, 30)],
    "ragged, ahead of the cache": [text(1, START), picture(5, 9, [0, 8, 44]), text(END, 4)],
    "all of a small one, behind the picture's end": [
        text(START),
        picture(3, 3, range(9)),
        text(END, 77),
    ],
    "two pictures with nothing between": [
        text(8),
        picture(2, 7, [1, 5, 13]),
        picture(7, 2, [0, 4], seed=1),
        text(6, 7),
    ],
    "a picture at the end": [text(8, 9), picture(4, 4, [2, 15])],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_dropping_equals_masking(setup, engine, prompt):
    logits = setup.decoders[engine].sequence().prefill(prompt)
    atol = 1e-5 if engine == "onnx" else TOLERANCES[engine]
    np.testing.assert_allclose(logits, masked_logits(setup.qwen, prompt), rtol=0, atol=atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_several_turns_and_cuts_equal_a_fresh_prefill(setup, engine):
    """A conversation about two pictures; each answer is cut away, or kept, before what follows."""
    decoder = setup.decoders[engine]
    first, second = picture(4, 6, [1, 8, 9, 23]), picture(3, 8, [0, 17], seed=2)
    opening = [text(1, START), first, text(END, 40)]
    turns = [
        opening,
        [*opening, text(50, 51, START), second, text(END, 3)],
        [text(1, START), first, text(END, 60)],  # another question: cut behind the picture
        [text(1, START), second, text(END, 60)],  # another picture: cut before it
    ]
    cached = CachedSequence(decoder.sequence())
    reused = []
    for turn in turns:
        logits, held = cached.prefill(turn)
        reused.append(held)
        fresh = decoder.sequence()
        np.testing.assert_allclose(logits, fresh.prefill(turn), rtol=0, atol=1e-4)
        assert cached.sequence.next_position == fresh.next_position
        for token in (12, 13):
            expected = fresh.decode(token)
            np.testing.assert_allclose(cached.decode(token), expected, rtol=0, atol=1e-4)
    assert reused == [0, 8, 7, 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fork_goes_on_as_a_fresh_prefill_does_and_leaves_what_it_came_from(setup, engine):
    decoder = setup.decoders[engine]
    pictured, opening = picture(4, 6, [1, 8, 9, 23]), [text(1, START)]
    whole = [*opening, pictured, text(END, 40, 41)]
    sequence = decoder.sequence()
    expected = sequence.prefill(whole)
    for length, left, head in (
        (9, 9, whole),
        (7, 7, [*opening, pictured, text(END)]),
        (4, 2, opening),
    ):
        assert sequence.reach(length) == left
        fork, fresh = sequence.fork(length), decoder.sequence()
        assert (fork.length, sequence.length) == (left, 9)
        fresh.prefill(head)
        assert fork.next_position == fresh.next_position
        further = [text(50, START), picture(3, 8, [0, 17], seed=2), text(END)]
        logits = fork.prefill(further)
        np.testing.assert_allclose(logits, fresh.prefill(further), rtol=0, atol=1e-4)
        again = fork.fork(fork.length)
        fork.close()
        np.testing.assert_allclose(again.decode(12), fresh.decode(12), rtol=0, atol=1e-4)
    sequence.keep(8)
    np.testing.assert_allclose(sequence.decode(41), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cut_inside_a_picture_takes_all_of_it(setup, engine):
    sequence = setup.decoders[engine].sequence()
    pictured = picture(4, 6, [1, 8, 9, 23])
    expected = sequence.prefill([text(1, 2), pictured, text(3, 4)])
    for length in (5, 3):
        sequence.keep(length)
        assert (sequence.length, sequence.next_position) == (2, 2)
        again = sequence.prefill([pictured, text(3, 4)])
        np.testing.assert_allclose(again, expected, rtol=0, atol=1e-4)
    sequence.keep(7)
    assert (sequence.length, sequence.next_position) == (7, 2 + 6 + 1)
    np.testing.assert_allclose(sequence.decode(4), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_more_than_a_batch_and_more_than_the_first_cache(setup, engine):
    """600 tokens are two batches of llama.cpp; 1,108 are more than its first cache holds."""
    kept = np.sort(np.random.default_rng(3).permutation(620)[:600])
    prompt = [text(1, START), picture(31, 20, kept), text(END, 5)]
    more = [text(9, START), picture(10, 51, kept[kept < 510], seed=4), text(END)]
    length = sum(map(len, [*prompt, *more]))
    sequence = setup.decoders[engine].sequence()
    sequence.prefill(prompt)
    sequence.prefill(more)
    assert length > 1024
    assert (sequence.length, sequence.next_position) == (length, 35 + 54)
    expected = masked_logits(setup.qwen, [*prompt, *more, text(44)])
    np.testing.assert_allclose(sequence.decode(44), expected, rtol=0, atol=TOLERANCES[engine])
    sequence.keep(604)  # what was brought into the larger cache can be cut as before
    expected = masked_logits(setup.qwen, [*prompt, text(7)])
    np.testing.assert_allclose(sequence.decode(7), expected, rtol=0, atol=TOLERANCES[engine])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refusal_leaves_the_sequence_as_it_was(setup, engine):
    sequence = setup.decoders[engine].sequence()
    before = sequence.prefill([text(1, 2), picture(2, 9, [4])])
    further = dict.fromkeys(setup.qwen.spec.extras, np.ones((2, 64), np.float32))
    bare = EmbeddingSegment(np.ones((2, 64), np.float32), extras=further)
    for refused in (bare, picture(2, 2, [3, 4])):
        with pytest.raises(ArtifactError, match="picture of"):
            sequence.prefill([text(5), refused, text(6)])
        assert (sequence.length, sequence.next_position) == (3, 11)
    sequence.keep(2)
    again = sequence.prefill([picture(2, 9, [4])])
    np.testing.assert_allclose(again, before, rtol=0, atol=1e-4)


def test_an_artifacts_graph_with_positions_of_another_kind_is_refused(setup):
    session = setup.decoders["onnx"]._graphs.prefill
    extras = setup.qwen.spec.extras
    other = SimpleNamespace(decoder=manifest_spec(positions="contiguous", extras=extras))
    with pytest.raises(ArtifactError, match=r"position_ids of shape \(3, .*says \(any, any\)"):
        signature(other, metadata.DECODER).check("graph", session)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_without_the_further_features_is_refused(setup, engine):
    if not setup.qwen.spec.extras:
        pytest.skip("it reads none")
    sequence, whole_picture = setup.decoders[engine].sequence(), picture(2, 9, [4, 8])
    for extras, said in (
        ({}, "comes without deepstack_0"),
        ({**whole_picture.extras, "deepstack_2": np.ones((1, 64), np.float32)}, r"shape \(1, 64\)"),
    ):
        with pytest.raises(ArtifactError, match=said):
            sequence.prefill([text(1), replace(whole_picture, extras=extras), text(2)])
    assert sequence.length == 0
