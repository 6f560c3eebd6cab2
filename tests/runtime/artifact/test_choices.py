"""Which graph serves a budget: the definition, written as a search, over every budget and
artifact."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.artifact import Manifest, pick_graph, pick_precision, serving_graph
from pocketvlm.errors import RequestError
from support.tiny_artifact import read_manifest, write_artifact


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices") / "artifact"
    write_artifact(folder, budgets=(6, 12))
    return Manifest.from_dict(read_manifest(folder))


def with_graphs(manifest, budgets, nested):
    """The manifest with these graphs, of a method whose budgets are nested or not."""
    graphs = {k: {"fp32": f"onnx/vision_encoder.k{k}.onnx"} for k in budgets}
    pruning = dataclasses.replace(
        manifest.pruning, nested=nested, method="fastervlm", default_budget=max(budgets)
    )
    vision = dataclasses.replace(manifest.vision, graphs=graphs)
    return dataclasses.replace(manifest, vision=vision, pruning=pruning)


@given(st.sets(st.integers(1, 16), min_size=1), st.booleans(), st.integers(-2, 20))
def test_a_budget_is_served_by_its_own_graph_or_the_next_larger_one(
    manifest, budgets, nested, budget
):
    changed = with_graphs(manifest, budgets, nested)
    expected = None
    for k in range(budget, budget + 1 if not nested else 17):  # 16 tokens before pruning
        if budget >= 1 and k in budgets:
            expected = k
            break
    assert serving_graph(changed, budget) == expected
    if expected is not None:
        assert pick_graph(changed, budget) == expected
        return
    with pytest.raises(RequestError, match=f"budget {budget}( is not |: expected)") as refusal:
        pick_graph(changed, budget)
    assert refusal.value.setting == "budget"


def test_without_a_budget_the_default_is_served(manifest):
    assert pick_graph(manifest, None) == serving_graph(manifest, manifest.pruning.default_budget)


def test_a_refused_precision_names_its_setting():
    with pytest.raises(RequestError, match="the decoder has no precision 'int4'") as refusal:
        pick_precision({"fp32": "a", "fp16": "b"}, "int4", "decoder", setting="decoder_precision")
    assert (refusal.value.expected, refusal.value.setting) == (
        "one of fp32, fp16",
        "decoder_precision",
    )
    assert refusal.value.advice == "or export again with --decoder-precision int4"


def test_advice_never_names_a_precision_that_no_export_makes():
    with pytest.raises(RequestError) as refusal:
        pick_precision({"fp32": "a"}, "int4", "vision graph", setting="vision_precision")
    assert refusal.value.advice == ""


def test_a_budget_out_of_range_names_what_this_artifact_serves(manifest):
    with pytest.raises(RequestError) as refusal:
        pick_graph(with_graphs(manifest, [4, 9], nested=True), 0)
    assert refusal.value.expected == (
        "1..9: what this artifact serves of the 16 tokens of a picture"
    )
