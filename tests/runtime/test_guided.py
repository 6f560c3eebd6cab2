"""Two models: the small one answers first. Its confidence against its own logits, who answers, what
is handed over, and pairs that do not go together."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from pocketvlm import VLM, PocketVLMError, Sampling
from pocketvlm.artifact import metadata
from pocketvlm.cli import main
from pocketvlm.guided import Guided
from pocketvlm.limits import NOTHING_KEPT
from support.tiny_artifact import (
    cut_pictures,
    give_scores,
    give_selectors,
    make_dynamic,
    read_manifest,
    read_scores,
    write_artifact,
    write_manifest,
)
from support.tiny_graphs import Weights, reference_scores

PICTURE = np.random.default_rng(4).integers(0, 256, (30, 40, 3), dtype=np.uint8)
BRIEF = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def guide_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("guided") / "small"
    weights = write_artifact(root, seed=1, budgets=(16, 6))
    give_scores(root, weights)
    return root


@pytest.fixture(scope="module")
def plain_dir(tmp_path_factory):
    """A model that drops nothing: a guide may only answer for it."""
    root = tmp_path_factory.mktemp("guided") / "plain"
    write_artifact(root, seed=2, budgets=(16, 6))
    return root


@pytest.fixture(scope="module")
def guide(guide_dir):
    return VLM.load(guide_dir, limits=NOTHING_KEPT)


@pytest.fixture(scope="module")
def plain(plain_dir):
    return VLM.load(plain_dir, limits=NOTHING_KEPT)


def confidence_of(vlm, answer, question):
    """The product of the tokens' probabilities, from the logits of each step by themselves."""
    request = vlm.prepare(question, [PICTURE])
    (feature,) = (vlm.parts.viewer.encode(picture, cached=False) for picture in request.pictures)
    ids = vlm.parts.prompter.place(request.ids, [picture.ids for picture in request.pictures])
    sequence = vlm.parts.decoder.sequence()
    rows = [sequence.prefill(vlm.parts.prompter.segments(ids, [feature]))]
    rows += [sequence.decode(token) for token in answer.token_ids[:-1]]
    logits = np.stack(rows).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.prod(shares[np.arange(len(rows)), answer.token_ids])


def test_the_guide_answers_where_it_is_sure_enough(guide, plain):
    own = guide.generate("what?", [PICTURE], sampling=BRIEF)
    sure = confidence_of(guide, own, "what?")
    assert 0 < sure < 1
    for least, by in ((sure * 0.99, "guide"), ((sure + 1) / 2, "model"), (0, "guide")):
        answer = Guided(plain, guide, confidence=least).generate("what?", [PICTURE], sampling=BRIEF)
        assert answer.answered_by == by
        assert answer.confidence == pytest.approx(sure, rel=1e-6)
        assert answer.guide.token_ids == own.token_ids
        expected = own if by == "guide" else plain.generate("what?", [PICTURE], sampling=BRIEF)
        assert (answer.token_ids, answer.text) == (expected.token_ids, expected.text)
        waited = answer.guide.timings_ms["total"]
        assert answer.timings_ms["total"] >= answer.timings_ms["ttft"] >= waited > 0


def test_an_answer_that_sampling_draws_needs_no_guide_that_answers(guide, plain):
    drawn = Sampling(max_new_tokens=4, temperature=1.0, seed=3)
    with pytest.raises(PocketVLMError, match="at temperature 1 another would be drawn"):
        Guided(plain, guide, confidence=0.5).generate("what?", [PICTURE], sampling=drawn)


def test_a_stream_gives_the_guides_answer_whole(guide, plain):
    stream = Guided(plain, guide, confidence=0).stream("what?", [PICTURE], sampling=BRIEF)
    pieces = list(stream)
    assert len(pieces) <= 1
    assert "".join(pieces) == stream.answer.text


def test_a_stream_that_is_stopped(guide, plain):
    stream = Guided(plain, guide, confidence=1).stream("what?", [PICTURE])
    stream.stop()
    assert stream.answer.finish_reason == "interrupted"
    assert stream.answer.answered_by == "guide"
    stream = Guided(plain, guide, confidence=1).stream("what?", [PICTURE])
    next(stream)
    stream.close()
    assert plain.cache_bytes == guide.cache_bytes == 0


@pytest.mark.parametrize(
    ("confidence", "message"),
    [(1.5, "outside 0..1"), (float("nan"), "outside 0..1"), ("high", "type str"), (True, "bool")],
)
def test_a_confidence_that_is_none(guide, plain, confidence, message):
    with pytest.raises(PocketVLMError, match=message):
        Guided(plain, guide, confidence=confidence)


def test_a_guide_that_decides_nothing(guide, plain):
    with pytest.raises(PocketVLMError, match=r"plain drops no visual tokens .* --decoder-stage"):
        Guided(plain, guide)


KEEP = 5


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model that is given its scores."""
    root = tmp_path_factory.mktemp("guided") / "large"
    weights = write_artifact(root, seed=2, budgets=(16, 6))
    read_scores(root, weights, KEEP)
    return VLM.load(root)


def second_layer_reads(weights, embeds, kept):
    """Logits of the last of (n, hidden) embeddings where the second layer reads the rows ``kept``
    alone, at the places that they had."""
    x = embeds.astype(np.float64) + weights.position[: len(embeds)]
    for number, matrices in enumerate(weights.layers):
        x = x[kept] if number == 1 else x
        q, k, v = (x @ matrices[name] for name in "qkv")
        later = np.triu(np.ones((len(x), len(x)), bool), 1)
        products = np.where(later, -np.inf, q @ k.T)
        attention = np.exp(products - products.max(axis=1, keepdims=True))
        x = x + attention / attention.sum(axis=1, keepdims=True) @ v @ matrices["o"]
    return x[-1] @ weights.embed.T


@pytest.mark.parametrize("pictures", [1, 2])
def test_what_the_guide_looks_at_is_what_the_model_reads(guide, large, pictures):
    """From the picture to the answer in numpy: the guide's attention, what is kept, the model."""
    small_weights, large_weights = (
        Weights.random(large.artifact.manifest.decoder.vocab, seed) for seed in (1, 2)
    )
    images = [PICTURE, PICTURE[:, ::-1]][:pictures]
    answer = Guided(large, guide).generate("what is it?", images, sampling=BRIEF)
    assert answer.answered_by == "model"
    own = guide.generate("what is it?", images, sampling=BRIEF)
    assert answer.guide.token_ids == own.token_ids

    def rows(vlm, weights, answered):
        request = vlm.prepare("what is it?", images)
        features = [vlm.parts.viewer.encode(each, cached=False) for each in request.pictures]
        ids = vlm.parts.prompter.place(request.ids, [each.ids for each in request.pictures])
        embeds = weights.embed[np.concatenate([ids, answered]).astype(int)]
        visual = np.flatnonzero(ids == vlm.parts.prompter.image_token_id)
        embeds[visual] = np.concatenate([each.inputs_embeds for each in features])
        return embeds, visual

    embeds, visual = rows(guide, small_weights, own.token_ids[:-1])
    scores = reference_scores(small_weights, embeds, visual[-1] + 1)[visual]
    best = visual[np.argsort(-scores, kind="stable")[: KEEP * pictures]]
    for step in range(len(answer.token_ids)):
        embeds, _ = rows(large, large_weights, answer.token_ids[:step])
        kept = np.setdiff1d(np.arange(len(embeds)), np.setdiff1d(visual, best))
        logits = second_layer_reads(large_weights, embeds, kept)
        assert int(logits.argmax()) == answer.token_ids[step]
    assert answer.visual_tokens["before"] == answer.visual_tokens["after"] == 16 * pictures


def test_without_pictures_nothing_is_handed_over(guide, large):
    answer = Guided(large, guide).generate("what is it?", sampling=BRIEF)
    assert answer.token_ids == large.generate("what is it?", sampling=BRIEF).token_ids


def test_a_model_that_needs_a_guide_says_so(large):
    with pytest.raises(PocketVLMError, match="there is none: answer with `pocketvlm run"):
        large.generate("what?", [PICTURE])
    with pytest.raises(PocketVLMError, match="there is none: answer with `pocketvlm run"):
        large.chat().ask("what?", [PICTURE])


def test_a_guide_that_does_not_say_what_it_looks_at(plain, large):
    with pytest.raises(
        PocketVLMError, match=r"the decoder of plain does not give .* by which large"
    ):
        Guided(large, plain)


def test_pruned_by_the_same_vision_graph_they_go_together(tmp_path, guide):
    """Weights of one tower keep the same tokens; those of another are noticed."""
    for name, seed in (("same", 1), ("other", 2)):
        weights = write_artifact(tmp_path / name, seed=seed, budgets=(16, 6))
        read_scores(tmp_path / name, weights, 3)
    same, other = (VLM.load(tmp_path / name, limits=NOTHING_KEPT) for name in ("same", "other"))
    answer = Guided(same, guide).generate("what?", [PICTURE], budget=6, sampling=BRIEF)
    assert answer.kept_indices == answer.guide.kept_indices
    assert len(answer.kept_indices[0]) == 6
    with pytest.raises(PocketVLMError, match="small keeps other visual tokens of a picture than"):
        Guided(other, guide).generate("what?", [PICTURE], budget=6, sampling=BRIEF)
    assert other.cache_bytes == 0


def test_other_methods_and_other_grids_are_refused_at_once(tmp_path, large):
    weights = write_artifact(tmp_path / "method", seed=1, budgets=(6,), method="uniform")
    give_scores(tmp_path / "method", weights)
    pruned = write_artifact(tmp_path / "pruned", seed=1, budgets=(6,))
    read_scores(tmp_path / "pruned", pruned, 3)
    with pytest.raises(PocketVLMError, match=r"method keeps .* by uniform, pruned by fastervlm"):
        Guided(VLM.load(tmp_path / "pruned"), VLM.load(tmp_path / "method"))
    weights = write_artifact(tmp_path / "tiles", seed=1, budgets=(16,))
    give_scores(tmp_path / "tiles", weights)
    cut_pictures(tmp_path / "tiles", 2, 2)
    with pytest.raises(PocketVLMError, match=r"tiles makes 16 tokens, layout anyres-max .* large"):
        Guided(large, VLM.load(tmp_path / "tiles"))


@pytest.mark.parametrize(
    ("section", "change", "way"),
    [
        (
            "pruning",
            {"merge_dropped": True, "nested": False},
            "fastervlm with dropped ones merged",
        ),
        (
            "vision",
            {"stages": [{"layer": 1, "keep": 8, "by": "cls"}]},
            "fastervlm behind stages 1:8:cls",
        ),
    ],
)
def test_other_ways_to_the_same_method_are_refused_before_the_guide_answers(
    tmp_path, section, change, way
):
    for name in ("small", "big"):
        weights = write_artifact(tmp_path / name, seed=1, budgets=(6,))
        (give_scores if name == "small" else lambda *each: read_scores(*each, 3))(
            tmp_path / name, weights
        )
    data = read_manifest(tmp_path / "big")
    data[section] |= change
    write_manifest(tmp_path / "big", data)
    if section == "vision":
        stamp_vision(tmp_path / "big", "1:8:cls")
    with pytest.raises(PocketVLMError, match=f"small keeps .* by fastervlm, big by {way}"):
        Guided(VLM.load(tmp_path / "big"), VLM.load(tmp_path / "small"))


def stamp_vision(root, stages):
    """Let a vision graph say that stages drop patches in it."""
    path = root / "onnx" / "vision_encoder.onnx"
    model = onnx.load(path)
    props = {prop.key: prop.value for prop in model.metadata_props}
    helper.set_model_props(model, props | {metadata.STAGES: stages})
    onnx.save(model, path)
    write_manifest(root, read_manifest(root))


def test_scores_are_not_handed_over_where_the_question_selects(tmp_path):
    """Of each by its own embeddings; at all tokens nothing is selected."""
    for name in ("small", "big"):
        weights = write_artifact(tmp_path / name, seed=1, budgets=(16, 6))
        (give_scores if name == "small" else lambda *each: read_scores(*each, 3))(
            tmp_path / name, weights
        )
        give_selectors(tmp_path / name, weights, (16, 6))
    guide = VLM.load(tmp_path / "small")
    guided = Guided(VLM.load(tmp_path / "big"), guide)
    line = "small and big select visual tokens by the question"
    with pytest.raises(PocketVLMError, match=line):
        guided.stream("what?", [PICTURE], budget=6, sampling=BRIEF)
    with pytest.raises(PocketVLMError, match=line):
        Guided(VLM.load(tmp_path / "big", budget=6), guide)


def test_pictures_of_any_size_make_the_same_tokens_where_both_read_as_many(tmp_path):
    for name, most in (("small", 20), ("smaller", 12), ("big", 20)):
        weights = write_artifact(tmp_path / name, seed=1, budgets=(12,))
        if name == "big":
            read_scores(tmp_path / name, weights, 3)
        else:
            give_scores(tmp_path / name, weights)
        make_dynamic(tmp_path / name, weights, 12, most)
    big, small, smaller = (VLM.load(tmp_path / name) for name in ("big", "small", "smaller"))
    with pytest.raises(PocketVLMError, match="smaller makes 12 tokens"):
        Guided(big, smaller)
    answer = Guided(big, small).generate("what?", [PICTURE], sampling=BRIEF)
    assert answer.answered_by == "model"
    assert answer.kept_indices == answer.guide.kept_indices


def test_the_command(guide_dir, large, plain_dir):
    arguments = ["run", str(large.artifact.root), "--prompt", "what?", "--max-new-tokens", "4"]
    told = CliRunner().invoke(main, [*arguments, "--guide", str(guide_dir), "--json"])
    assert told.exit_code == 0, told.output
    answer = json.loads(told.output)
    assert (answer["answered_by"], answer["guide"]["decoder"]) == ("model", "onnx fp32")
    own = ["run", str(plain_dir), *arguments[2:], "--guide", str(guide_dir), "--confidence", "0"]
    told = CliRunner().invoke(main, [*own, "--json"])
    assert json.loads(told.output)["answered_by"] == "guide"
    assert CliRunner().invoke(main, [*arguments, "--confidence", "0.5"]).exit_code == 2
    refused = CliRunner().invoke(
        main, ["run", str(plain_dir), *arguments[2:], "--guide", str(guide_dir)]
    )
    assert refused.exit_code == 1
    assert len(refused.stderr.strip().splitlines()) == 1


def test_commands_without_a_guide_say_who_has_one(large):
    folder = str(large.artifact.root)
    assert "guide      needed, as it ranks" in CliRunner().invoke(main, ["inspect", folder]).stdout
    for command in (["chat", folder], ["profile", folder, "--repeat", "1"]):
        done = CliRunner().invoke(main, command, input="what?\n")
        assert done.exit_code == 1
        assert "answer with `pocketvlm run DIR --guide SMALL`" in done.stderr
        assert not done.stdout
