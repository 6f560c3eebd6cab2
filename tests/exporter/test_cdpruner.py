"""Selecting by the question: CDPruner against determinants and float64, its graphs through the
gate."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.errors import RequestError
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.build import build_embedding, build_selectors, build_vision
from pocketvlm_export.caps import Caps
from pocketvlm_export.loading import inspect_checkpoint, open_checkpoint
from pocketvlm_export.packaging import make_manifest, seal, write_card, write_manifest, write_using
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.pruning.base import Evidence
from pocketvlm_export.pruning.cdpruner import greedy_map, normalised
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification import check_parity
from pocketvlm_export.verification.encoding import open_encoder
from pocketvlm_export.verification.exact import TIE
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from support.gguf_files import HAS_LLAMA_CPP
from support.using import check_facts

NAME = "cdpruner"
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
ONE = Sampling(max_new_tokens=1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def picks(kernel, count):
    return greedy_map(torch.from_numpy(np.asarray(kernel, np.float32))[None], count)[0].tolist()


# The kernel of OpenVINO GenAI's unit tests, tests/cpp/test_cdpruner_dpp.cpp.
FOUR = np.array(
    [[0.8, 0.3, 0.1, 0.2], [0.3, 0.9, 0.4, 0.1], [0.1, 0.4, 0.7, 0.5], [0.2, 0.1, 0.5, 0.6]]
)


def by_determinants(kernel, count):
    """Each time the patch with which the determinant of those picked is largest."""
    chosen = []
    for _ in range(count):
        left = [patch for patch in range(len(kernel)) if patch not in chosen]
        minors = [np.linalg.det(kernel[np.ix_([*chosen, each], [*chosen, each])]) for each in left]
        chosen.append(left[int(np.argmax(minors))])
    return chosen


def test_openvinos_own_example():
    assert picks(FOUR, 4) == by_determinants(FOUR, 4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(2, 9))
def test_each_pick_has_the_largest_determinant(seed, tokens):
    rows = np.random.default_rng(seed).normal(size=(tokens, tokens + 4))
    kernel = rows @ rows.T / (tokens + 4)
    assert picks(kernel, tokens) == by_determinants(kernel, tokens)


@pytest.mark.parametrize("rank", [1, 3])
def test_beyond_the_rank_no_patch_is_picked_again(rank):
    random = np.random.default_rng(rank)
    rows = (random.normal(size=(25, rank)) @ random.normal(size=(rank, 12))).astype(np.float32)
    text = random.normal(size=(1, 3, 12)).astype(np.float32)
    evidence = Evidence(
        1, (5, 5), projected=torch.from_numpy(rows[None]), text=torch.from_numpy(text)
    )
    for budget in (rank + 1, 12, 25, 30):  # 30 of 25 are all of them
        kept = make_pruner(NAME, {}).select(evidence, budget)
        assert len(set(kept.indices[0].tolist())) == min(budget, 25)
        assert torch.isfinite(kept.scores).all()
        assert kept.scores[0].sort(descending=True).values.tolist() == pytest.approx(
            [1 - number / 25 for number in range(min(budget, 25))]
        )


def test_without_words_the_most_different_are_kept():
    """Half of what is left of the kernel is S, whose picks do not depend on its scale. Its diagonal
    is 1 but for rounding, so that the first pick is any of them."""
    rows = np.random.default_rng(4).normal(size=(16, 24)).astype(np.float32)
    evidence = Evidence(
        1, (4, 4), projected=torch.from_numpy(rows[None]), text=torch.zeros(1, 1, 24)
    )
    kept = make_pruner(NAME, {}).select(evidence, 5).indices[0].tolist()
    kernel = unit(rows) @ unit(rows).T
    firsts = [kernel + 1e-3 * np.diag(np.arange(16) == first) for first in range(16)]
    assert kept in [sorted(picks(each, 5)) for each in firsts]


def test_relevance_is_brought_to_one():
    rows = normalised(torch.tensor([[0.2, 0.4, 0.3], [0.5, 0.5, 0.5]]))
    np.testing.assert_allclose(rows, [[0, 1, 0.5], [0, 0, 0]], atol=1e-5)


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "half"])
def test_a_weight_that_is_refused(value):
    with pytest.raises(RequestError, match=r"relevance_weight is .* within 0\.0\.\.1\.0"):
        make_pruner(NAME, {"relevance_weight": value})


def scene(seed, tokens=36, width=64):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(9, width))
    rows = centres[random.integers(0, 9, tokens)] + 0.4 * random.normal(size=(tokens, width))
    return rows.astype(np.float32), random.normal(size=(4, width)).astype(np.float32)


def selection(rows, text, budget, **given):
    evidence = Evidence(
        1, (6, 6), projected=torch.from_numpy(rows[None]), text=torch.from_numpy(text[None])
    )
    kept = make_pruner(NAME, given).select(evidence, budget)
    return kept.indices[0].numpy(), kept.scores[0].numpy()


@pytest.mark.parametrize("seed", range(4))
def test_the_oracle_tells_right_picks_from_wrong_ones(seed):
    """What rounding may exchange is let pass, another weight or question is not."""
    rows, text = scene(seed)
    encoded = Encoded(
        [], 0, rows.astype(float), rows.astype(float), (6, 6), text=text.astype(float)
    )
    ranking = find_oracle(NAME)(encoded, {"relevance_weight": 0.5})
    kept, scores = selection(rows, text, 12)
    assert ranking.distance(kept, scores) == 0
    assert ranking.score_difference(kept, scores) < 1e-6
    others = [
        selection(rows, text, 12, relevance_weight="0.1"),
        selection(rows, text[:2], 12),
        selection(rows, -text, 12),
        (kept, scores[::-1].copy()),
        (np.sort(np.append(kept[:-1], kept[0])), scores),
        (np.append(kept[:-1], 36), scores),
    ]
    assert all(ranking.distance(*other) > TIE for other in others)


def test_a_method_that_reads_more_than_its_graph_has_is_refused(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(type(make_pruner(NAME, {})), "reads", frozenset({"text", "cls_row"}))
    with pytest.raises(RequestError, match="reads the prompt and cls_row: expected no more than"):
        make_plan(inspect_checkpoint(str(tiny_checkpoint)), ExportOptions(NAME))


def test_a_method_that_merges_what_a_question_selects_is_refused(tiny_checkpoint, monkeypatch):
    """Also where it says so only once it is settled."""

    def settle(self, vision):
        self.merges = True

    monkeypatch.setattr(type(make_pruner(NAME, {})), "settle", settle)
    with pytest.raises(RequestError, match="reads the prompt and makes one token of several"):
        make_plan(inspect_checkpoint(str(tiny_checkpoint)), ExportOptions(NAME))


def plan_of(checkpoint, **options):
    return make_plan(inspect_checkpoint(str(checkpoint)), ExportOptions(NAME, **options))


def test_a_plan_has_one_vision_graph_and_a_selector_for_each_budget(tiny_checkpoint):
    plan = plan_of(tiny_checkpoint, budgets=(9, 18), vision_precisions=("fp32", "int8"))
    assert plan.vision[9] == plan.vision[18]
    assert plan.selectors == {9: "onnx/token_selector.onnx", 18: "onnx/token_selector.k18.onnx"}
    assert {*plan.selectors.values(), *plan.vision[9].values()} <= plan.sizes().keys()
    one, other = (plan.sizes()[file] for file in plan.vision[9].values())
    assert one > other > max(plan.sizes()[file] for file in plan.selectors.values())
    (warning,) = [line for line in plan.warnings if "selects by the question" in line]
    assert "transformers.js" in warning
    assert plan.renamed(str.upper).selectors[9] == "ONNX/TOKEN_SELECTOR.ONNX"


@pytest.mark.skipif(not HAS_LLAMA_CPP, reason="needs llama-cpp-python")
def test_a_decoder_for_llama_cpp_gets_a_table_to_read_questions_by(tiny_checkpoint):
    plan = plan_of(tiny_checkpoint, decoder="llama.cpp")
    assert (plan.embed, plan.decoder) == ({"fp32": "onnx/embed_tokens.onnx"}, {})
    assert not plan.extra & set(plan.embed.values())
    ranked = make_plan(
        inspect_checkpoint(str(tiny_checkpoint)), ExportOptions("divprune", decoder="llama.cpp")
    )
    assert ranked.embed == {}
    assert plan.footprint().weights > ranked.footprint().weights


@pytest.fixture(scope="module")
def made(tiny_checkpoint, tiny_export, tmp_path_factory):
    """(folder, plan) of the tiny LLaVA at budgets 12 and 5, int8 beside fp32: the decoder of
    another artifact with a tower and selectors of its own."""
    options = ExportOptions(NAME, budgets=(12, 5), vision_precisions=("fp32", "int8"))
    plan = make_plan(open_checkpoint(str(tiny_checkpoint)), options)
    folder = shutil.copytree(tiny_export, tmp_path_factory.mktemp("guided") / "a")
    for old in folder.glob("onnx/vision_encoder*"):
        old.unlink()
    with quiet_transformers():
        build_vision(plan, folder, lambda _: None)
    build_selectors(plan, folder, lambda _: None)
    return folder, plan


def sealed(made, folder):
    """An artifact of a copy of these graphs, and its figures of the gate."""
    source, plan = made
    shutil.copytree(source, folder)
    manifest = make_manifest(plan, folder, seal(plan, folder), {})
    parity = check_parity(plan.checkpoint, Artifact(folder, manifest))
    manifest = replace(manifest, parity=replace(parity, passed=True))
    write_using(Artifact(folder, manifest))
    write_card(plan, folder)
    write_manifest(manifest, folder)
    return parity


@pytest.fixture(scope="module")
def artifact(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed") / "a"
    return folder, sealed(made, folder)


def test_it_passes_the_gate(artifact):
    folder, parity = artifact
    assert parity.passed, parity
    assert parity.vision["kept_equal"]
    assert parity.by_precision["int8"]["vision"]["kept_overlap"] > 0.7
    manifest = Artifact.open(folder).manifest
    assert manifest.vision.selectors.keys() == {12, 5}
    assert manifest.pruning.nested


def test_a_selector_with_another_weight_fails_the_gate(made, tmp_path):
    source, plan = made
    other = shutil.copytree(source, tmp_path / "other")
    wrong = replace(
        plan,
        pruner=make_pruner(NAME, {"relevance_weight": "0.2"}),
        selectors={5: plan.selectors[5]},
    )
    build_selectors(wrong, other, lambda _: None)
    assert not sealed((other, plan), tmp_path / "a").passed


def test_a_smaller_budget_has_a_graph_of_its_own_and_is_cut_alike(artifact):
    folder, _ = artifact
    vlm = VLM.load(folder)
    for question in ("What is it?", "Where is the dog?"):
        cut = vlm.generate(question, [NOISE], budget=5, sampling=ONE)
        own = VLM.load(folder, budget=5).generate(question, [NOISE], sampling=ONE)
        assert cut.kept_indices == own.kept_indices
        assert len(own.kept_indices[0]) == 5


def test_int8_features_are_selected_from_too(artifact):
    vlm = VLM.load(artifact[0], vision_precision="int8")
    assert len(vlm.generate("What is it?", [NOISE], sampling=ONE).kept_indices[0]) == 12


def test_a_batch_is_selected_from_one_by_one(artifact):
    encoder = VisionEncoder.open(Artifact.open(artifact[0]))
    pixels = np.random.default_rng(2).normal(size=(3, 3, 42, 42)).astype(np.float32)
    question = np.array([5, 6, 7])
    together = encoder.select(encoder.encode(pixels), question)
    for number in range(3):
        alone = encoder.select(encoder.encode(pixels[number : number + 1]), question)
        np.testing.assert_array_equal(together.kept_indices[number], alone.kept_indices[0])


def test_the_page_and_the_card_say_what_other_clients_need(artifact):
    folder, _ = artifact
    page, stated = (
        (folder / "USING.md").read_text(),
        json.loads((folder / "using.json").read_text()),
    )
    assert "For each question `onnx/token_selector.onnx` takes 12 of them" in page
    assert "selectors" in check_facts(folder)["needs"]
    assert "neither can answer from this folder" in page
    words = stated["graphs"]["selector"]["inputs"]["text_embeds"]
    assert words == [1, "tokens", stated["hidden"]]
    assert stated["selects_by"]["table"] == "onnx/embed_tokens.onnx"
    assert stated["weights"]["onnx/token_selector.k5.onnx"] == []
    card = (folder / "README.md").read_text()
    assert "Its token selector keeps the 12 patches that the question is about" in card
    assert "transformers.js and llama.cpp's own programs cannot answer" in card


@pytest.fixture(scope="module")
def by_int8(made, tmp_path_factory):
    """(artifact, references of the gate) with an int8 table before the exact one."""
    source, _ = made
    folder = shutil.copytree(source, tmp_path_factory.mktemp("int8") / "a")
    checkpoint = open_checkpoint(str(made[1].checkpoint.source.folder))
    options = ExportOptions(NAME, budgets=(12, 5), embed_precisions=("int8",))
    plan = make_plan(checkpoint, options)
    with quiet_transformers():
        build_embedding(plan, folder, lambda _: None, {})
    artifact = Artifact(folder, make_manifest(plan, folder, seal(plan, folder), {}))
    assert list(artifact.manifest.decoder.embed) == ["int8", "fp32"]
    return artifact, check_parity(checkpoint, artifact)


def test_the_gate_measures_what_the_published_table_selects(by_int8):
    artifact, parity = by_int8
    assert artifact.manifest.vision.selector_table == "int8"
    assert parity.passed, parity
    assert parity.vision["kept_equal"]
    figures = parity.by_precision["int8"]["selection"]
    assert figures["kept_overlap"] >= 0.8 or figures["cut_distance"] <= 0.1


def test_questions_are_read_by_the_published_table_but_where_the_gate_is_exact(by_int8):
    artifact, _ = by_int8
    pixels = np.random.default_rng(3).normal(size=(1, 3, 42, 42)).astype(np.float32)
    question = np.arange(5, 12)

    def kept(encoder):
        return encoder.select(encoder.encode(pixels), question).image_features.tobytes()

    exact, used = (open_encoder(artifact, "fp32", 12, as_used=used) for used in (False, True))
    tables = {name: VisionEncoder.open(artifact, table=name) for name in ("fp32", "int8")}
    assert kept(used) == kept(tables["int8"]) == kept(VisionEncoder.open(artifact))
    assert kept(exact) == kept(tables["fp32"])


@pytest.fixture(scope="module")
def any_size(qwen3, tmp_path_factory):
    """Pictures of any size, three numbers a position and features of inner layers."""
    folder = tmp_path_factory.mktemp("any-size") / "a"
    options = ExportOptions(NAME, budgets=(6,), caps=Caps(max_pixels=48 * 32**2))
    return folder, export(str(qwen3), folder, options)


def test_pictures_of_any_size_with_features_of_inner_layers(any_size):
    folder, report = any_size
    assert report.manifest.parity.vision["kept_equal"]
    assert report.manifest.decoder.extras
    vlm = VLM.load(folder)
    chat = vlm.chat()
    for question, image in (
        ("what is it?", NOISE),
        ("where is the dog?", None),
        ("and here?", NOISE[:30, :40]),
    ):
        answer = chat.ask(question, None if image is None else [image], sampling=ONE)
        alone = vlm.generate(question, [NOISE], sampling=ONE)
        assert answer.kept_indices[0] == alone.kept_indices[0]
    # 2 x 2 tokens, fewer than the budget: all are kept.
    small = vlm.generate("what?", [NOISE[:40, :40]], sampling=ONE)
    assert small.pictures_below_budget == (len(small.kept_indices[0]) < 6)
