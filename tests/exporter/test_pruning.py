"""Selection: a published golden vector, ties, raster order; in torch and as ONNX Runtime runs it."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pocketvlm import PocketVLMError
from pocketvlm_export.options import check_budgets
from pocketvlm_export.pruning import Evidence, make_pruner, take_best
from support.clip_oracle import best

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "selector_golden.json").read_text())


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """splitmix64 to 24-bit uniforms in [-0.5, 0.5): the generator of the golden vectors."""
    z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).astype(np.float32).reshape(shape)


def golden_row(case: dict) -> np.ndarray:
    """[CLS] attention (1, heads, patches): softmax over [CLS] and patches, the [CLS] column then dropped."""
    logits = 8 * uniform(case["seed"] + 3, (case["heads"], case["patches"] + 1)).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return probabilities.astype(np.float32)[None, :, 1:]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vector(name):
    case = GOLDEN[name]
    pruner = make_pruner(name.partition("_")[0], {})
    selection = pruner.select(Evidence(cls_row=torch.from_numpy(golden_row(case))), case["budget"])
    assert selection.indices.tolist() == [case["kept_indices"]]


class Select(torch.nn.Module):
    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget

    def forward(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(take_best(scores, self.budget))


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """Nine of 36, as a graph."""
    program = torch.onnx.export(
        Select(9), (torch.randn(2, 36),), dynamo=True, dynamic_shapes=({0: "batch_size"},), verbose=False
    )
    return ort.InferenceSession(ir.to_proto(program.model).SerializeToString(), providers=["CPUExecutionProvider"])


@given(scores=arrays.arrays(np.float32, (2, 36), elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])))
def test_onnx_takes_the_best_and_gives_ties_to_the_lower_index(session, scores):
    indices, kept = session.run(None, {session.get_inputs()[0].name: scores})
    np.testing.assert_array_equal(indices, [best(row, 9) for row in scores])
    np.testing.assert_array_equal(kept, np.take_along_axis(scores, indices, axis=1))


@given(scores=arrays.arrays(np.float32, 36, elements=st.floats(0, 1, width=32), unique=True), j=st.integers(1, 35))
def test_kept_sets_are_nested(scores, j):
    small, large = (set(take_best(torch.from_numpy(scores[None]), k).indices[0].tolist()) for k in (j, j + 1))
    assert small < large


def test_default_budget_is_a_quarter():
    assert [make_pruner("fastervlm", {}).default_budget(n) for n in (1, 36, 576)] == [1, 9, 144]
    assert make_pruner("none", {}).default_budget(576) == 576


@pytest.mark.parametrize("budgets", [(0,), (-3,), (577,), (64, 64)])
def test_budget_out_of_range(budgets):
    with pytest.raises(PocketVLMError, match=r"1\.\.576|repeat"):
        check_budgets(budgets, tokens=576, default=144)


def test_unknown_pruner_and_option():
    with pytest.raises(PocketVLMError, match="fastervlm, none"):
        make_pruner("magic", {})
    with pytest.raises(PocketVLMError, match="no option 'ratio'"):
        make_pruner("fastervlm", {"ratio": "0.5"})
