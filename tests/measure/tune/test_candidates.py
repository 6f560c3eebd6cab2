"""What a folder holds to choose from, and which of it the rest is compared with."""

import itertools

import pytest

from pocketvlm import Artifact
from pocketvlm_measure.cases import Case
from pocketvlm_measure.tune.candidates import (
    baseline_among,
    candidates_in,
    default_budgets,
    exactness,
    thinned,
)
from pocketvlm_measure.tune.tuning import Candidate
from support.tiny_artifact import make_dynamic, read_manifest, write_artifact, write_manifest
from support.tunings import write_several


def candidate(budget, decoder_precision="fp32", vision="fp32", *, max_pixels=None):
    case = Case(budget, "onnx", decoder_precision, vision, max_pixels=max_pixels)
    return Candidate("folder", case)


def test_smaller_budgets_are_tried_where_a_graph_serves_them(tmp_path):
    write_artifact(tmp_path / "nested", budgets=(6, 12))
    write_artifact(tmp_path / "fixed", budgets=(6, 12), nested=False)
    assert default_budgets(Artifact.open(tmp_path / "nested")) == [12, 6, 3, 1]
    assert default_budgets(Artifact.open(tmp_path / "fixed")) == [12, 6]


def test_smaller_pictures_are_tried_where_the_layout_takes_them(tmp_path):
    weights = write_artifact(tmp_path / "any")
    make_dynamic(tmp_path / "any", weights, 6, 12)
    artifact = Artifact.open(tmp_path / "any")
    every = candidates_in(tmp_path / "any", artifact, budgets=[6])
    caps = [one.case.max_pixels for one in every]
    assert caps[0] is None
    assert caps[1:] == sorted(caps[1:], reverse=True)
    assert len(caps) > 1
    assert baseline_among(every).case.max_pixels is None
    for one in every:  # each of them can be opened
        one.case.of(artifact)
    fewer = candidates_in(tmp_path / "any", artifact.capped(max_pixels=caps[1]), budgets=[6])
    assert fewer[0].case.max_pixels == caps[1]


@pytest.mark.parametrize("named", [(), ("all",), ("int8",)])
def test_the_pair_that_answers_is_tried_too(tmp_path, named):
    root = write_several(tmp_path)
    data = read_manifest(root)
    data["decoder"]["pair"] = "int8+fp32"
    write_manifest(root, data, recount=False)
    every = candidates_in(root, Artifact.open(root), budgets=[6], decoder_precisions=named)
    precisions = {one.case.decoder_precision for one in every}
    assert precisions == ({"int8"} if named == ("int8",) else {"fp32", "int8", "int8+fp32"})
    assert baseline_among(every).case.decoder_precision == ("int8" if "int8" in named else "fp32")


@pytest.mark.parametrize(
    ("precision", "bits"),
    [
        ("fp32", 32),
        ("F16", 16),
        ("int8", 8),
        ("Q4_K_M", 4),
        ("q8_0", 8),
        ("int8+int4", 4),
        ("x", 0),
    ],
)
def test_a_precision_is_as_exact_as_its_bits(precision, bits):
    assert exactness(precision) == bits


def test_the_baseline_is_the_most_exact_then_the_most_tokens():
    precisions = ("int8", "fp32")
    every = [candidate(*each) for each in itertools.product((6, 12), precisions, precisions)]
    assert baseline_among(every) == candidate(12)
    assert baseline_among([candidate(12, "int8"), candidate(6)]) == candidate(6)


def test_too_many_are_thinned_and_that_is_said():
    every = [
        candidate(budget, decoder, vision, max_pixels=cap)
        for cap in (None, 400, 200)
        for budget in (144, 72, 36, 18, 9)
        for decoder in ("fp32", "int8", "int4")
        for vision in ("fp32", "int8")
    ]
    baseline = baseline_among(every)
    left, note = thinned(every, baseline, most=30)
    assert len(left) <= 30
    assert baseline not in left
    assert {one.case.budget for one in left} >= {144, 9}
    assert {one.case.decoder_precision for one in left} == {"fp32", "int8", "int4"}
    assert {one.case.max_pixels for one in left} == {None, 400, 200}
    assert f"{len(left)} of 89" in note
    assert thinned(every[:4], baseline) == (every[1:4], None)


def test_candidates_are_named_by_all_that_tells_them_apart():
    one = Candidate("f", candidate(6, max_pixels=400).case, (("--pruner", "scope"),))
    assert str(one).startswith("--pruner scope, 6 tokens, onnx fp32, vision fp32")
    assert str(one).endswith("pixels at most 400")
