"""Selection: vectors that the methods' own code gave, ties, raster order; in torch and as ONNX
Runtime runs it."""

import hashlib
import json
import subprocess
import sys
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
from pocketvlm_export.pruning import PRUNERS, find_pruner, make_pruner
from pocketvlm_export.pruning.base import Evidence, take_best
from pocketvlm_export.pruning.cdpruner import greedy_map
from pocketvlm_export.verification.oracles import find_oracle
from support.clip_oracle import best

# Made by the functions that the methods' authors published; those of methods that there are none of
# here lie with them.
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "selector_golden.json").read_text())


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """splitmix64 to 24-bit uniforms in [-0.5, 0.5): the generator of the golden vectors."""
    z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    ) + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).astype(np.float32).reshape(shape)


def golden_row(seed: int, heads: int, patches: int) -> torch.Tensor:
    """[CLS] attention (1, heads, patches): softmax over [CLS] and patches, the [CLS] column then
    dropped."""
    logits = 8 * uniform(seed + 3, (heads, patches + 1)).astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return torch.from_numpy(probabilities.astype(np.float32)[None, :, 1:])


def golden_features(seed: int, patches: int, width: int, clusters: int) -> torch.Tensor:
    """Noise around centres, (1, patches, width)."""
    centres, noise = uniform(seed + 1, (clusters, width)), uniform(seed + 2, (patches, width))
    return torch.from_numpy(
        centres[np.arange(patches) * 5 // 3 % clusters] + np.float32(0.75) * noise
    )[None]


def short_hash(indices: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(indices, "<i4").tobytes()).hexdigest()[:16]


def test_fastervlm_keeps_what_the_authors_function_keeps():
    golden = GOLDEN["fastervlm_N36_T9_seed11"]
    evidence = Evidence(1, (6, 6), cls_rows=(golden_row(11, heads=4, patches=36),))
    kept = make_pruner("fastervlm", {}).select(evidence, 9).indices[0]
    assert kept.tolist() == golden["idx"]
    assert short_hash(kept.numpy()) == golden["sha"]


def test_divprune_picks_what_the_authors_function_picks():
    golden = GOLDEN["divprune_N36_ratio0.25_seed31"]
    evidence = Evidence(1, (6, 6), projected=golden_features(31, patches=36, width=16, clusters=8))
    kept = make_pruner("divprune", {}).select(evidence, 9)
    assert kept.indices[0][kept.scores[0].argsort(descending=True)].tolist() == golden["order"]
    assert short_hash(kept.indices[0].numpy()) == golden["sorted_sha"]


def test_gprune_keeps_what_the_authors_function_keeps():
    """The paper's form, put together from ours: half of the whole picture, half of its tiles, every
    end of a line."""
    golden = GOLDEN["gprune_24x48_C64_seed62"]
    features = golden_features(62, patches=576 + 24 * 49, width=64, clusters=40)
    number = np.arange(features.shape[1])
    ends = (number >= 576) & ((number - 576) % 49 == 48)
    kept = [number[ends]]
    for part, grid in ((number[:576], (24, 24)), (number[(number >= 576) & ~ends], (24, 48))):
        pruner = make_pruner("gprune", {})
        chosen = pruner.select(Evidence(1, grid, projected=features[:, part]), len(part) // 2)
        kept.append(part[chosen.indices[0].numpy()])
    together = np.sort(np.concatenate(kept))
    assert len(together) == golden["kept"]
    assert short_hash(together) == golden["sha"]


def golden_keys(seed: int, patches: int) -> torch.Tensor:
    """Keys of all patches, (1, patches, 8); the authors' function is given one of [CLS] too."""
    return torch.from_numpy(uniform(seed + 4, (patches + 1, 8))[None, 1:])


def test_visionzip_keeps_what_the_authors_function_keeps():
    """Theirs sends the [CLS] token to the decoder as one of the dominant: 6 patches of ours are 7
    of theirs, and what both list is counted from [CLS] on."""
    golden = GOLDEN["visionzip_N36_dom6+cls_ctx3_seed51"]
    features = golden_features(51, patches=36, width=16, clusters=8)
    evidence = Evidence(
        1,
        (6, 6),
        cls_rows=(golden_row(51, heads=4, patches=36),),
        keys=golden_keys(51, patches=36),
        features=features,
    )
    pruner = make_pruner("visionzip", {"contextual": str(3 / 9), "weight": "cls"})
    kept = pruner.select(evidence, 9)
    assert kept.features is not None
    as_they_were = (kept.features == features[0, kept.indices[0]]).all(dim=-1)[0]
    with_cls = kept.indices[0].numpy() + 1
    dominant = [0, *with_cls[as_they_were].tolist()]
    assert dominant == golden["keep_incl_cls"]
    assert short_hash(np.array(dominant)) == golden["keep_sha"]
    assert with_cls[~as_they_were].tolist() == golden["ctx_targets"]


def test_cdpruner_picks_what_the_authors_function_picks():
    """Of the paper's kernel, r_i S_ij r_j with relevance by CLIP's text tower, negated."""
    golden = GOLDEN["cdpruner_N36_C16_T9_seed41"]
    features = unit(golden_features(41, patches=36, width=16, clusters=8)[0])
    seen, words = (
        unit(torch.from_numpy(uniform(seed, (rows, 24)))) for seed, rows in ((48, 36), (49, 1))
    )
    likeness = -(seen @ words.T).mean(dim=1)
    relevance = (likeness - likeness.min() + 1e-6) / (likeness.max() - likeness.min())
    kernel = relevance[:, None] * (features @ features.T) * relevance
    kept = np.sort(greedy_map(kernel[None], 9)[0].numpy())
    assert kept.tolist() == golden["idx"]
    assert short_hash(kept) == golden["sha"]


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


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
        Select(9),
        (torch.randn(2, 36),),
        dynamo=True,
        dynamic_shapes=({0: "batch_size"},),
        verbose=False,
    )
    return ort.InferenceSession(
        ir.to_proto(program.model).SerializeToString(), providers=["CPUExecutionProvider"]
    )


@given(
    scores=arrays.arrays(
        np.float32, (2, 36), elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0])
    )
)
def test_onnx_takes_the_best_and_gives_ties_to_the_lower_index(session, scores):
    indices, kept = session.run(None, {session.get_inputs()[0].name: scores})
    np.testing.assert_array_equal(indices, [best(row, 9) for row in scores])
    np.testing.assert_array_equal(kept, np.take_along_axis(scores, indices, axis=1))


@given(
    scores=arrays.arrays(np.float32, 36, elements=st.floats(0, 1, width=32), unique=True),
    j=st.integers(1, 35),
)
def test_kept_sets_are_nested(scores, j):
    small, large = (
        set(take_best(torch.from_numpy(scores[None]), k).indices[0].tolist()) for k in (j, j + 1)
    )
    assert small < large


def test_default_budget_is_a_quarter():
    assert [make_pruner("fastervlm", {}).default_budget(n) for n in (1, 36, 576)] == [1, 9, 144]
    assert make_pruner("none", {}).default_budget(576) == 576


@pytest.mark.parametrize("budgets", [(0,), (-3,), (577,), (64, 64)])
def test_budget_out_of_range(budgets):
    with pytest.raises(PocketVLMError, match=r"1\.\.576|repeat"):
        check_budgets(budgets, tokens=576, default=144)


def test_every_method_has_its_name_and_an_oracle():
    assert [find_pruner(name).name for name in PRUNERS] == list(PRUNERS)
    assert len({find_oracle(name) for name in PRUNERS}) == len(PRUNERS)


def test_the_registries_that_the_command_lists_need_no_torch():
    heavy = {"torch", "transformers", "onnx", "onnx_ir", "gguf", "llama_cpp"}
    check = f"import sys, pocketvlm_export.cli; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", check]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"set()\n"


def test_unknown_pruner_and_option():
    with pytest.raises(PocketVLMError, match=r"fastervlm, vtc-cls, .*none"):
        make_pruner("magic", {})
    with pytest.raises(PocketVLMError, match="no option 'ratio': leave --pruner-option out"):
        make_pruner("fastervlm", {"ratio": "0.5"})
    with pytest.raises(
        PocketVLMError, match="no option 'ratio': choose from steps, temperature, threshold"
    ):
        make_pruner("gprune", {"ratio": "0.5"})


@pytest.mark.parametrize(
    ("method", "name", "text", "expected"),
    [
        (
            "random",
            "seed",
            "-1",
            r"random option seed is -1: expected a whole number within 0\.\.4294967295",
        ),
        ("random", "seed", "1.5", "'1.5': expected a whole number"),
        (
            "gprune",
            "threshold",
            "high",
            r"gprune option threshold is 'high': expected a number within 0\.01\.\.0\.99",
        ),
        ("gprune", "threshold", "1", "expected a number within"),
        ("gprune", "threshold", "nan", "expected a number within"),
        ("gprune", "temperature", "inf", "expected a number within"),
        ("gprune", "steps", "65", "expected a whole number within"),
        ("vtc-cls", "start_layer", "", "expected a whole number within"),
    ],
)
def test_values_that_are_refused(method, name, text, expected):
    with pytest.raises(PocketVLMError, match=expected):
        make_pruner(method, {name: text})


def test_options_are_read_and_have_defaults():
    assert make_pruner("gprune", {"steps": "3"}).options == {
        "threshold": 0.5,
        "temperature": 0.03,
        "steps": 3,
    }
    assert make_pruner("random", {}).options == {"seed": 0}
    assert make_pruner("vtc-cls", {"start_layer": "7"}).options == {"start_layer": 7}
