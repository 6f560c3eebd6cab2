"""Decoders without a mask, and with one: rows that are padded on the left answer as they do alone,
and windows are kept, in the first run, in a run that continues a cache, and token by token."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pocketvlm.artifact import metadata
from pocketvlm_export.families.spec import DecoderSpec
from pocketvlm_export.families.text_models import decoder_spec
from pocketvlm_export.graphs import DecoderGraph, trace
from pocketvlm_export.graphs.masks import is_full
from pocketvlm_export.onnx_passes import GroupQueryAttention, Rotary, fuse, tidy
from pocketvlm_export.quiet import quiet_transformers

HIDDEN, WINDOW = 32, 4
SIZES = {
    "vocab_size": 48,
    "hidden_size": HIDDEN,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
MODELS = {
    "full": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "sliding": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)),
    "both": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
}


def make_model(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    model.set_attn_implementation("eager")
    return model


def alone(model, embeds):
    """transformers' logits of the last of (S, hidden), read in one run."""
    with torch.no_grad():
        return model(inputs_embeds=torch.tensor(embeds)[None]).logits[0, -1].numpy()


class Case:
    """A tiny model of transformers, and the fused graph of it, which reads further features where
    that is packed."""

    def __init__(self, kind):
        self.model = make_model(kind)
        whole = SimpleNamespace(
            text_config=self.model.config, tie_word_embeddings=False, model_type="llava"
        )
        spec = decoder_spec(whole)
        extras = ("deepstack_0",) if is_full(spec) else ()
        self.spec = dataclasses.replace(spec, extras=extras)
        with quiet_transformers():
            graph = DecoderGraph(self.model, self.spec)
            self.traced = trace(graph)
        tidy(self.traced, graph.output_axes)
        self.fused = self.traced.clone()
        fuse(self.fused, metadata.DECODER, full=is_full(self.spec))
        self.session = session_of(self.fused)

    def padded(self, embeds, mask, positions):
        """transformers' own logits of a padded batch."""
        with torch.no_grad():
            output = self.model(
                inputs_embeds=torch.tensor(embeds),
                attention_mask=torch.tensor(mask),
                position_ids=torch.tensor(positions),
            )
        return output.logits[:, -1].numpy()


def session_of(model):
    return ort.InferenceSession(ir.to_proto(model).SerializeToString())


class Reader:
    """A client that keeps the cache of a graph as it is given."""

    def __init__(self, session, rows):
        self.session, self.cache = session, {}
        for each in session.get_inputs():
            if each.name.startswith("past"):
                shape = (rows, each.shape[1], 0, each.shape[3])
                self.cache[each.name] = np.zeros(shape, np.float32)

    def read(self, embeds, mask, positions, **further):
        """Logits of each row's last token, (rows, vocab)."""
        feed = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
        inputs = {value.name for value in self.session.get_inputs()}
        feed |= dict.fromkeys(inputs & {"deepstack_0"}, 0 * embeds)
        names = [value.name for value in self.session.get_outputs()]
        outputs = dict(
            zip(names, self.session.run(None, {**feed, **further, **self.cache}), strict=True)
        )
        self.cache = {
            name: outputs[name.replace("past_key_values", "present")] for name in self.cache
        }
        return outputs["logits"][:, 0]


def batch_of(rows):
    """Rows of (n, hidden) padded on the left with what would be seen at once: (embeds, mask,
    positions)."""
    longest = max(map(len, rows))
    embeds = np.full((len(rows), longest, HIDDEN), 3, np.float32)
    mask = np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        embeds[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return embeds, mask, np.maximum(mask.cumsum(axis=1) - 1, 0)


def random_rows(seed, lengths):
    random = np.random.default_rng(seed)
    return [random.normal(size=(length, HIDDEN)).astype(np.float32) for length in lengths]


@functools.cache
def case_of(kind):
    """Traced once for all tests."""
    return Case(kind)


@pytest.fixture(params=["full", "both"])
def case(request):
    return case_of(request.param)


@pytest.mark.parametrize("lengths", [(9, 4, 6), (3, 8), (5, 5), (7, 1)], ids=str)
def test_rows_of_a_padded_batch_answer_as_they_do_alone(case, lengths):
    rows = random_rows(1, lengths)
    embeds, mask, positions = batch_of(rows)
    reader = Reader(case.session, len(rows))
    logits = reader.read(embeds, mask, positions)
    expected = np.stack([alone(case.model, row) for row in rows])
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(logits, case.padded(embeds, mask, positions), atol=1e-4)
    for step in range(1, 7):  # beyond the window
        tokens = random_rows(10 + step, [1] * len(rows))
        rows = [np.concatenate(pair) for pair in zip(rows, tokens, strict=True)]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        positions = np.array([[len(row) - 1] for row in rows])
        logits = reader.read(np.stack(tokens), mask, positions)
        expected = np.stack([alone(case.model, row) for row in rows])
        np.testing.assert_allclose(logits, expected, atol=1e-4, err_msg=f"token {step}")


def test_a_cache_goes_on_in_runs_of_any_length(case):
    (row,) = random_rows(2, [17])
    reader, read = Reader(case.session, 1), 0
    for tokens in (3, 6, 1, 4, 1, 2):
        part = row[None, read : read + tokens]
        read += tokens
        positions = np.arange(read - tokens, read)[None]
        logits = reader.read(part, np.ones((1, read), np.int64), positions)
        np.testing.assert_allclose(logits[0], alone(case.model, row[:read]), atol=1e-4)


def test_two_rows_without_padding_answer_as_transformers(case):
    embeds, mask, positions = batch_of(random_rows(3, [11, 11]))
    logits = Reader(case.session, 2).read(embeds, mask, positions)
    np.testing.assert_allclose(logits, case.padded(embeds, mask, positions), atol=1e-4)


def test_a_window_that_was_not_kept_would_show():
    """Tokens of a test lie behind both layers' windows, and a layer without one sees them."""
    (row,) = random_rows(2, [17])
    moved = row.copy()
    moved[: 17 - 2 * WINDOW] += 1  # what two layers of windows reach lies behind
    changes = {
        kind: not np.allclose(alone(model, row), alone(model, moved), atol=1e-3)
        for kind, model in {kind: make_model(kind) for kind in MODELS}.items()
    }
    assert changes == {"full": True, "both": True, "sliding": False}


def test_which_decoders_are_full():
    def spec(**stated):
        return DecoderSpec(SimpleNamespace(**stated), *[1] * 7, tied=False)

    full, sliding = "full_attention", "sliding_attention"
    assert is_full(spec())
    assert is_full(spec(sliding_window=None, layer_types=None))
    assert is_full(spec(sliding_window=4, layer_types=[full, full]))  # no layer has it
    assert not is_full(spec(sliding_window=4))
    assert not is_full(spec(sliding_window=4, layer_types=[full, sliding]))
    assert not is_full(spec(layer_types=[full, "chunked_attention"]))
    assert not is_full(spec(attention_chunk_size=8))
    assert not is_full(dataclasses.replace(spec(), conv_layers=(0,)))
    assert not is_full(dataclasses.replace(spec(), attention="pictures"))


def test_the_mask_goes_where_nothing_else_reads_it(case):
    kinds = [node.op_type for node in case.fused.graph]
    biases = [
        len(node.inputs) > 10 for node in case.fused.graph if node.op_type == "GroupQueryAttention"
    ]
    if is_full(case.spec):
        assert biases == [False, False]
        assert not {"And", "LessOrEqual", "Less", "Max", "Where"} & set(kinds)
    else:
        assert biases == [True, True]
    assert {value.name for value in case.fused.graph.inputs} == {
        value.name for value in case.traced.graph.inputs
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 99))
def test_any_padding_is_packed(lengths, steps, seed):
    full = case_of("full")
    rows = random_rows(seed, lengths)
    embeds, mask, positions = batch_of(rows)
    reader = Reader(full.session, len(rows))
    logits = reader.read(embeds, mask, positions)
    for _ in range(steps):
        tokens = random_rows(seed + 1, [1] * len(rows))
        rows = [np.concatenate(pair) for pair in zip(rows, tokens, strict=True)]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        positions = np.array([[len(row) - 1] for row in rows])
        logits = reader.read(np.stack(tokens), mask, positions)
    expected = np.stack([alone(full.model, row) for row in rows])
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_features_behind_layers_are_packed_too():
    full = case_of("full")
    rows, extras = random_rows(4, (7, 3)), random_rows(5, (7, 3))
    embeds, mask, positions = batch_of(rows)
    reader = Reader(full.session, 2)
    logits = reader.read(embeds, mask, positions, deepstack_0=batch_of(extras)[0])
    for index, (row, extra) in enumerate(zip(rows, extras, strict=True)):
        hook = full.model.model.layers[0].register_forward_hook(
            lambda _layer, _inputs, output, extra=extra: output + torch.tensor(extra)
        )
        np.testing.assert_allclose(logits[index], alone(full.model, row), atol=1e-4)
        hook.remove()


def test_logits_of_every_token_are_refused():
    model = case_of("full").traced.clone()
    Rotary()(model)
    logits = next(value for value in model.graph.outputs if value.name == "logits")
    last = logits.producer().inputs[0].producer()
    assert last.op_type == "Slice"
    last.outputs[0].replace_all_uses_with(last.inputs[0])
    with pytest.raises(ir.passes.PreconditionError, match="last token"):
        GroupQueryAttention(full=True)(model)
