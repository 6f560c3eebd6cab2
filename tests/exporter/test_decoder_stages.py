"""Stages of the decoder as torch computes them: against float64 from the formulas, against
transformers' own layers with tokens hidden by a mask, and what holds of any of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from make_checkpoint import PRESETS
from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import RequestError
from pocketvlm_export.decoder_stages import DECODER_STAGES, find_ranking, named
from pocketvlm_export.graphs.staged_decoder import DecoderWithStages, going_on
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.decoder_stages import find_stage_oracle
from pocketvlm_export.verification.masked_reader import MaskedReader, gate_scores
from pocketvlm_export.verification.tower_stages import find_chooser
from support.staged import embeddings, in_float64

LAYERS = 5


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-qwen2"])
def decoder(request, make_tiny):
    """A decoder of five layers in float32, and its dimensions."""
    preset = PRESETS[request.param].but(text={"num_hidden_layers": LAYERS})
    checkpoint = open_checkpoint(str(make_tiny(preset)))
    with quiet_transformers():
        model = checkpoint.family.load_decoder(
            checkpoint.weights, checkpoint.spec, attention="eager"
        )
    return model, checkpoint.spec.decoder


@pytest.fixture(scope="module")
def llama(make_tiny):
    """The first of them alone, for what does not depend on the model."""
    checkpoint = open_checkpoint(
        str(make_tiny(PRESETS["tiny-llama"].but(text={"num_hidden_layers": LAYERS})))
    )
    with quiet_transformers():
        model = checkpoint.family.load_decoder(
            checkpoint.weights, checkpoint.spec, attention="eager"
        )
    return model, checkpoint.spec.decoder


def stages_of(text):
    return [named(Stage.parse(each)) for each in text.split()]


def run(decoder, stages, embeds, pictures, scores=None):
    """A prompt: logits (rows, vocab), and what each stage kept."""
    model, spec = decoder
    rows, tokens, _ = embeds.shape
    nothing = torch.zeros(rows, spec.kv_heads, 0, spec.head_dim)
    with torch.inference_mode():
        outputs = DecoderWithStages(model, stages)(
            torch.from_numpy(embeds),
            torch.arange(tokens).repeat(rows, 1),
            torch.as_tensor(pictures),
            [(nothing, nothing)] * spec.layers,
            None if scores is None else torch.from_numpy(scores),
        )
    kept = [each.numpy() for each in outputs[1 : 1 + len(stages)]]
    return outputs[0][:, 0].numpy(), kept


def pictures_of(text):
    return np.array([[int(digit) for digit in text]])


# PyramidDrop is the second, in a decoder whose quarters are not whole layers; SparseVLM the third.
WAYS = ["2:4", "1:8 2:4 4:2", "1:7:raters 2:5:raters 4:2:raters", "3:0", "2:5:given 4:0"]
ORDERS = ["00111111111100000", "1111111110", "0111111111100"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_prompt_against_float64(decoder, way, order):
    model, spec = decoder
    pictures, embeds = pictures_of(order), embeddings(spec, len(order), seed=len(order))
    scores = np.random.default_rng(1).random(pictures.shape).astype(np.float32)
    stages = stages_of(way)
    expected, left = in_float64(model, embeds[0], pictures[0] > 0, stages, scores[0])
    logits, kept = run(decoder, stages, embeds, pictures, scores)
    assert [each[0].tolist() for each in kept] == [each.tolist() for each in left]
    np.testing.assert_allclose(logits[0], expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("way", WAYS)
def test_the_gates_reader_against_float64(decoder, way):
    """The other side of the gate: whole maps, and tokens hidden by the mask."""
    model, spec = decoder
    pictures, embeds = pictures_of(ORDERS[0]), embeddings(spec, len(ORDERS[0]), seed=3)
    is_visual, stages = pictures[0] > 0, stages_of(way)
    given = gate_scores(stages, int(is_visual.sum()))
    reader = MaskedReader(model, stages, given)
    with torch.inference_mode():
        logits = reader.prefill(torch.from_numpy(embeds), is_visual).numpy()
    scores = np.zeros(len(is_visual))
    scores[is_visual] = 0 if given is None else given
    expected, left = in_float64(model, embeds[0], is_visual, stages, scores)
    assert [each.kept.tolist() for each in reader.dropping] == [each.tolist() for each in left]
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=2, max_size=20), st.integers(1, LAYERS - 1))
def test_a_stage_that_keeps_all_tokens_changes_nothing(llama, is_visual, layer):
    model, spec = llama
    embeds = embeddings(spec, len(is_visual), seed=len(is_visual))
    with torch.inference_mode():
        expected = model(inputs_embeds=torch.from_numpy(embeds)).logits[0, -1].numpy()
    for by in ("last-token", "raters"):
        stages = [Stage(layer, len(is_visual), by)]
        logits, (kept,) = run(llama, stages, embeds, np.array([is_visual]))
        assert kept[0].tolist() == list(range(len(is_visual)))
        np.testing.assert_allclose(logits[0], expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=2, max_size=20), st.integers(1, LAYERS - 1))
def test_a_fixed_exit_is_a_mask_over_all_visual_tokens(llama, is_visual, layer):
    """transformers' own layers, every token in each of them; from the exit on none sees a visual
    one. Where the last token is visual it stays."""
    model, spec = llama
    tokens = len(is_visual)
    embeds = embeddings(spec, tokens, seed=tokens)
    gone = torch.tensor([*is_visual[:-1], 0], dtype=torch.bool)
    hidden, later = torch.from_numpy(embeds), torch.ones(tokens, tokens).triu(1).bool()
    least = torch.finfo(torch.float32).min
    with torch.inference_mode():
        angles = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
        for number, each in enumerate(model.model.layers):
            hide = later | gone if number >= layer else later
            mask = torch.zeros(1, 1, tokens, tokens).masked_fill(hide, least)
            hidden = each(hidden, attention_mask=mask, position_embeddings=angles)
        expected = model.lm_head(model.model.norm(hidden))[0, -1].numpy()
    logits, (kept,) = run(llama, [Stage(layer, 0, "exit")], embeds, np.array([is_visual]))
    assert kept[0].tolist() == np.flatnonzero(~gone.numpy()).tolist()
    np.testing.assert_allclose(logits[0], expected, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=30),
    st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
    st.sampled_from(["last-token", "raters", "given"]),
)
def test_stages_are_nested(llama, kinds, keeps, by):
    """Each leaves of what the one before has left as many as it keeps of a picture, whatever is
    text."""
    numbers = {kind: number for number, kind in enumerate(sorted({*kinds} - {0}), start=1)}
    pictures = np.array([[numbers.get(kind, 0) for kind in sorted(kinds, reverse=True)]])
    text, is_visual = pictures[0, :-1] == 0, pictures[0, :-1] > 0
    stages = [
        Stage(layer, keep, by) for layer, keep in enumerate(sorted(keeps, reverse=True), start=1)
    ]
    scores = np.random.default_rng(0).random(pictures.shape).astype(np.float32)
    _, kept = run(llama, stages, embeddings(llama[1], pictures.size), pictures, scores)
    before = set(range(pictures.size))
    for stage, each in zip(stages, kept, strict=True):
        now = each[0].tolist()
        assert now == sorted(set(now) & before)
        assert {*np.flatnonzero(text).tolist(), pictures.size - 1} <= set(now)
        most = min(int(is_visual.sum()), stage.keep * pictures.max())
        assert sum(pictures[0, i] > 0 for i in now if i < pictures.size - 1) == most
        before = set(now)


def test_a_batch_is_its_rows(decoder):
    stages = stages_of("1:6 2:4:raters 4:0")
    embeds = embeddings(decoder[1], 14, seed=3, rows=3)
    pictures = np.array([[0, *[1] * 8, *[0] * 5]] * 3)
    logits, kept = run(decoder, stages, embeds, pictures)
    for row in range(3):
        rows = slice(row, row + 1)
        alone, kept_alone = run(decoder, stages, embeds[rows], pictures[rows])
        assert [each[0].tolist() for each in kept_alone] == [each[row].tolist() for each in kept]
        np.testing.assert_allclose(alone[0], logits[row], atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.integers(0, 8),
    st.randoms(use_true_random=False),
)
def test_what_goes_on(is_visual, keep, random):
    """All text, the last token and the best of the others, ascending; of distinct scores: torch
    leaves ties open. Scores may be of any size."""
    scores = np.array(random.sample(range(1000), len(is_visual)), np.float32)[None] * 1e30
    visual = np.flatnonzero(is_visual[:-1])
    expected = set(range(len(is_visual))) - set(visual)
    expected |= set(visual[np.argsort(-scores[0, visual], kind="stable")[:keep]])
    going = going_on(torch.from_numpy(scores), torch.tensor([is_visual]), torch.tensor([keep]))
    assert going[0].tolist() == sorted(expected)


@pytest.mark.parametrize("by", DECODER_STAGES)
def test_every_way_has_an_oracle_and_says_what_it_is(by):
    ranking = find_ranking(by)
    assert callable(find_stage_oracle(by))
    assert ranking.title
    assert ranking.keeps
    assert ranking.tag == ranking.tag.lower()


def test_an_unknown_way_is_refused():
    with pytest.raises(RequestError, match="choose from last-token, raters, given, exit"):
        find_ranking("first-token")


@pytest.mark.parametrize(
    ("stage", "by"), [("2:4", "last-token"), ("2:0", "exit"), ("2:4:given", "given")]
)
def test_what_a_stage_is_by_where_nothing_is_said(stage, by):
    assert named(Stage.parse(stage)).by == by


@pytest.mark.parametrize("find", [find_stage_oracle, find_chooser])
@pytest.mark.parametrize("by", ["foo", "base", "../x", "__init__", ""])
def test_a_way_that_an_artifact_makes_up_has_no_oracle(find, by):
    with pytest.raises(RequestError, match=r"unknown.*choose from"):
        find(by)
