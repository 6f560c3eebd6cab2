"""A guide and the model that it guides, exported: against transformers' own eager attentions, added
up as the paper has it, and its layers with the dropped tokens masked."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import (
    AutoProcessor,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from make_checkpoint import PRESETS
from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.artifact.stages import Stage
from pocketvlm.cli import main
from pocketvlm.decoders.witness import Witness
from pocketvlm.guided import Guided
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.graphs.decoder import ScoringDecoder
from support.using import check_facts

QUESTION, STEPS = "what is in the picture?", 8
LAYER, KEEP = 1, 14  # int(.4 * 3) of the layers, int(.4 * 36) of the tokens, as in the paper
PICTURE = np.random.default_rng(5).integers(0, 256, (50, 60, 3), dtype=np.uint8)
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_a_run_against_whole_maps(name):
    """With a cache and without one, and one row of two padded."""
    config_class, model_class = MODELS[name]
    config = config_class(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.set_input_embeddings(torch.nn.Identity())
    embeds, mask = torch.randn(2, 9, 32), torch.ones(2, 9, dtype=torch.int64)
    mask[1, :2] = 0
    places = torch.arange(9).repeat(2, 1)

    def expected(rows, tokens):
        maps = model(
            inputs_embeds=embeds[:, :tokens],
            attention_mask=mask[:, :tokens],
            position_ids=places[:, :tokens],
            output_attentions=True,
        ).attentions
        return sum(each[:, :, rows].sum(dim=(1, 2)) for each in maps).numpy()

    decoder = ScoringDecoder(model).eval()
    empty = [(torch.zeros(2, 2, 0, 8),) * 2 for _ in range(3)]
    with torch.inference_mode():
        *_, none = decoder(
            embeds[:, :6], mask[:, :6], places[:, :6], empty, torch.tensor([]).long()
        )
        assert none.shape == (2, 6)
        assert not none.any()
        _, *cache, scores = decoder(
            embeds[:, :6], mask[:, :6], places[:, :6], empty, torch.tensor([4, 5])
        )
        np.testing.assert_allclose(scores.numpy(), expected([4, 5], 6), atol=1e-5)
        past = list(zip(cache[::2], cache[1::2], strict=True))
        _, *_, scores = decoder(embeds[:, 6:], mask, places[:, 6:], past, torch.tensor([0, 2]))
        np.testing.assert_allclose(scores.numpy(), expected([6, 8], 9), atol=1e-5)
    assert scores[0].sum() == pytest.approx(2 * 3 * 4)  # rows, layers, heads


@pytest.fixture(scope="module")
def small_checkpoint(make_tiny):
    return make_tiny("tiny-llama")


@pytest.fixture(scope="module")
def large_checkpoint(make_tiny):
    return make_tiny(PRESETS["tiny-llama"].but(text={"num_hidden_layers": 3}))


@pytest.fixture(scope="module")
def small(small_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide") / "small"
    arguments = ["export", str(small_checkpoint), "-o", str(folder), "--pruner", "none"]
    done = CliRunner().invoke(main, [*arguments, "--decoder-scores", "--json"])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def large(large_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guide") / "large"
    stages = (Stage(LAYER, KEEP, "given"),)
    export(str(large_checkpoint), folder, ExportOptions("none", decoder_stages=stages))
    return folder


def open_transformers(checkpoint):
    """The checkpoint in transformers, and the prompt as it reads it: ids, embeddings."""
    model = LlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=[PICTURE], text=text, return_tensors="pt")
    tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    features = model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    visual = (ids[0] == model.config.image_token_id).numpy()
    embeds[0, visual] = features[0]
    return model, embeds, np.flatnonzero(visual)


def greedy(model, embeds, read):
    """Tokens by ``read`` of all embeddings so far, until the end of sequence."""
    tokens = []
    ends = model.generation_config.eos_token_id
    while len(tokens) < STEPS and not (tokens and tokens[-1] == ends):
        added = model.get_input_embeddings()(torch.tensor([tokens], dtype=torch.int64))
        tokens.append(int(read(torch.cat([embeds, added], dim=1)).argmax()))
    return tokens


@pytest.fixture(scope="module")
def looked_at(small_checkpoint):
    """The guide's answer in transformers, and what its attention pays to each visual token."""
    with torch.inference_mode():
        model, embeds, visual = open_transformers(small_checkpoint)
        language = model.model.language_model
        tokens = greedy(
            model, embeds, lambda each: model.lm_head(language(inputs_embeds=each)[0][0, -1])
        )
        added = model.get_input_embeddings()(torch.tensor([tokens[:-1]], dtype=torch.int64))
        maps = language(
            inputs_embeds=torch.cat([embeds, added], dim=1), output_attentions=True
        ).attentions
    rows = sum(each[0].double().sum(dim=0) for each in maps)[visual[-1] + 1 :]
    return tokens, rows.sum(dim=0).numpy()[visual]


def masked_answer(checkpoint, kept):
    """The large model's answer where layers from `LAYER` on do not see the visual tokens that are
    not among ``kept``, numbers of visual tokens: nothing is gathered, and there is no cache."""
    with torch.inference_mode():
        model, embeds, visual = open_transformers(checkpoint)
        language = model.model.language_model
        dropped = torch.from_numpy(np.delete(visual, kept))

        def read(hidden):
            places = torch.arange(hidden.shape[1])
            angles = language.rotary_emb(hidden, places[None])
            hidden_keys = places[None, :] > places[:, None]
            for number, layer in enumerate(language.layers):
                if number == LAYER:
                    hidden_keys = hidden_keys | torch.isin(places, dropped)
                mask = torch.zeros(hidden_keys.shape).masked_fill(hidden_keys, -1e30)
                hidden = layer(hidden, attention_mask=mask[None, None], position_embeddings=angles)
            return model.lm_head(language.norm(hidden[0, -1]))

        return greedy(model, embeds, read)


def test_the_guides_scores_are_those_of_transformers(small, looked_at):
    vlm, witness = VLM.load(small), Witness()
    asked = vlm.prepare(QUESTION, [PICTURE], sampling=Sampling(max_new_tokens=STEPS))
    answer = vlm.parts.begin(dataclasses.replace(asked, witness=witness)).answer
    tokens, scores = looked_at
    assert answer.token_ids == tokens
    np.testing.assert_allclose(witness.visual_scores[0], scores, rtol=1e-4)


def test_the_large_one_answers_as_transformers_with_the_others_masked(
    small, large, large_checkpoint, looked_at
):
    _, scores = looked_at
    kept = np.sort(np.argsort(-scores, kind="stable")[:KEEP])
    expected = masked_answer(large_checkpoint, kept)
    guided = Guided(VLM.load(large), VLM.load(small))
    answer = guided.generate(QUESTION, [PICTURE], sampling=Sampling(max_new_tokens=STEPS))
    assert answer.token_ids == expected
    # Other tokens would have made another answer.
    worst = np.sort(np.argsort(scores, kind="stable")[:KEEP])
    assert masked_answer(large_checkpoint, worst) != expected


def test_the_artifact_of_a_guide(small):
    manifest = Artifact.open(small, check="full").manifest
    assert manifest.decoder.scores
    assert manifest.decoder.graphs["fp32"] == "onnx/decoder_scores.onnx"
    assert manifest.parity.decoder["scores_max_abs"] < 1e-4
    assert "decoder_model_merged" not in (small / "config.json").read_text()
    assert "guide a larger model" in " ".join((small / "README.md").read_text().split())
    using = (small / "USING.md").read_text()
    assert "`scored_rows` are the numbers" in using
    facts = check_facts(small)
    assert (facts["scores"], list(facts["needs"])) == (True, ["scored_rows"])
    listing = CliRunner().invoke(main, ["inspect", str(small)]).stdout
    assert "guide      its decoder says" in listing


def test_an_ordinary_artifact_says_nothing_of_it(tiny_export):
    stated = json.loads((tiny_export / "pocketvlm.json").read_text())
    assert "scores" not in stated["decoder"]
    assert "scored_rows" not in (tiny_export / "USING.md").read_text()


@pytest.mark.parametrize(
    ("preset", "arguments", "message"),
    [
        ("tiny-llama", ["--decoder", "llama.cpp"], "llama.cpp does not say what attention pays"),
        ("tiny-llama", ["--decoder-stage", "1:9"], "drops tokens on its way has nothing to say"),
        ("tiny-qwen2-vl", [], "qwen2_vl checkpoints, where tokens are numbered by rows"),
        ("tiny-paligemma", [], "paligemma checkpoints, where"),
        ("tiny-lfm2-vl", [], "some layers are convolutions along the sequence"),
    ],
)
def test_decoders_that_cannot_be_guides(make_tiny, tmp_path, preset, arguments, message):
    asked = ["export", str(make_tiny(preset)), "-o", str(tmp_path / "a"), "--decoder-scores"]
    done = CliRunner().invoke(main, [*asked, *arguments])
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "a").exists()
