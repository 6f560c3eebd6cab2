"""The towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one graph for pictures of any size, against
transformers' own model with its merger, selection in numpy."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.vision_utils import get_vision_window_index

from pocketvlm import PocketVLMError
from pocketvlm.artifact.metadata import SELECTION
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.towers import attention
from pocketvlm_export.towers.qwen3_vl import merger_layers
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from pocketvlm_export.verification.oracles.base import raster_order
from support.golden import DATA, TEXT, filled, recorded_maps, run_graph

MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
EDGE = {"qwen2_vl": 28, "qwen2_5_vl": 28, "qwen3_vl": 32}  # of a token, in pixels
# By the layer that they are behind, counted from 0.
EXTRAS = {"deepstack_0": 0, "deepstack_1": 1, "deepstack_2": 2}
LARGEST = 96  # tokens
SIZES = [(8, 4), (3, 9), (6, 5), (1, 3), (9, 1)]  # in tokens; windows are 4x4
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
TOWERS = {
    "qwen2_vl": {"depth": 3, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 4, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64,
        "fullatt_block_indexes": [1, 3], "window_size": 112,
    },
    "qwen3_vl": {
        "depth": 4, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [*EXTRAS.values()],
    },
}  # fmt: skip
CLASSES = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
TURNS = {"mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 5e6}


@functools.cache
def visual(name):
    """transformers' tower with the golden weights."""
    config, model = CLASSES[name]
    torch.manual_seed(3)
    made = model(
        config(
            text_config={
                **TEXT, "num_hidden_layers": 4,
                **({"head_dim": 16} if name == "qwen3_vl" else {}),
                "rope_parameters": {**ROPE, **(TURNS if name == "qwen3_vl" else {})},
            },
            vision_config={**TOWERS[name], "num_heads": 2, "patch_size": EDGE[name] // 2},
            image_token_id=250, video_token_id=251, vision_start_token_id=248,
            vision_end_token_id=249,
        )
    )  # fmt: skip
    made = filled(made, 3).model.visual
    made.set_attn_implementation("eager")
    return made


def exported(name, method="received-attention", budget=5, size=None, **options):
    """See `run_graph`; ``size`` in tokens, None where it is dynamic."""
    tower, edge = visual(name), EDGE[name]
    image_size, tokens = None, LARGEST
    if size:
        image_size, tokens = (edge * size[0], edge * size[1]), size[0] * size[1]
    layers = (TOWERS[name]["depth"],)
    merger, extras = getattr(tower.merger, "mlp", None), ()
    if merger is None:
        merger, extras = nn.Sequential(*merger_layers(tower.merger).values()), tuple(EXTRAS)
    spec = VisionSpec(
        tower.config,
        image_size,
        tokens,
        has_cls=False,
        feature_layers=layers,
        merge=2,
        factor=edge,
        extras=extras,
    )
    pruner = make_pruner(method, {"seed": "5"} if method == "random" else {})
    return run_graph(tower, merger, spec, pruner, budget, **options)


@pytest.fixture(scope="module", params=MODELS)
def dynamic(request):
    """A model's name and its graph of any size, which keeps five tokens."""
    return request.param, *exported(request.param)


def noise(name, rows, columns, count=1):
    random, edge = np.random.default_rng(rows * 100 + columns), EDGE[name]
    return random.normal(size=(count, 3, edge * rows, edge * columns)).astype(np.float32)


def encoded(name, picture) -> tuple[Encoded, list[np.ndarray]]:
    """What transformers computes of one picture, (3, H, W), its last map in raster order; and the
    further features of all tokens, (N, hidden) each."""
    tower, edge = visual(name), EDGE[name]
    rows, columns = (size // edge for size in picture.shape[1:])
    half = edge // 2
    squares = picture.reshape(3, rows, 2, half, columns, 2, half).transpose(1, 4, 2, 5, 0, 3, 6)
    patches = squares.reshape(4 * rows * columns, 3, 1, -1).repeat(2, axis=2)
    patches = patches.reshape(len(patches), -1)
    grid = torch.tensor([[1, 2 * rows, 2 * columns]])
    with recorded_maps(tower) as maps, torch.inference_mode():
        output = tower(torch.from_numpy(patches), grid)
    last = maps[-1]
    if name == "qwen2_5_vl":  # its patches stand window by window
        window, _ = get_vision_window_index(grid, 2, 112, 14)
        back = np.argsort((window.numpy()[:, None] * 4 + np.arange(4)).ravel())
        last = last[:, back][:, :, back]
    order = raster_order((rows, columns), 2)
    further = [each.numpy() for each in getattr(output, "deepstack_features", ())]
    made = Encoded(
        [last[:, order][:, :, order]],
        0,
        np.zeros((rows * columns, 1)),
        output.pooler_output.double().numpy(),
        (rows, columns),
        merge=2,
    )
    return made, further


def assert_kept(name, method, outputs, pictures, budget):
    """``outputs`` are what the method should keep of transformers' features."""
    for number, picture in enumerate(pictures):
        theirs, further = encoded(name, picture)
        ranking = find_oracle(method)(theirs, make_pruner(method, {}).options)
        kept, scores = outputs["kept_indices"][number], outputs["kept_scores"][number]
        count = min(budget, len(theirs.projected))
        assert kept.shape == (count,)
        assert (np.diff(kept) > 0).all()
        assert ranking.distance(kept, scores) < 1e-5
        assert ranking.score_difference(kept, scores) < 1e-5
        if ranking.gap(count) > 1e-4:
            np.testing.assert_array_equal(kept, ranking.kept(count))
        np.testing.assert_allclose(
            outputs["image_features"][number], theirs.projected[kept], atol=1e-5
        )
        assert len(further) == (len(EXTRAS) if name == "qwen3_vl" else 0)
        for extra, every in zip(EXTRAS, further, strict=False):
            np.testing.assert_allclose(outputs[extra][number], every[kept], atol=1e-5)


def test_it_equals_the_golden_vectors(dynamic):
    name, _, run = dynamic
    golden = np.load(DATA / f"{name}.npz")
    picture = Image.fromarray(golden["picture_blocks"])
    picture = picture.resize(tuple(golden["picture_size"]), Image.Resampling.NEAREST)
    _, rows, columns = golden["grid_thw"][0] * (EDGE[name] // 2)
    picture = picture.resize((columns, rows), Image.Resampling.BICUBIC)
    pixels = (np.asarray(picture) * (1 / 255)).astype(np.float32)
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    if name == "qwen3_vl":
        mean = deviation = np.full(3, 0.5, np.float32)
    outputs = run(((pixels - mean) / deviation).transpose(2, 0, 1)[None])
    kept = golden["kept_indices"]
    np.testing.assert_array_equal(outputs["kept_indices"], [kept])
    np.testing.assert_allclose(outputs["kept_scores"][0], golden["scores"][kept], atol=1e-6)
    np.testing.assert_allclose(outputs["image_features"][0], golden["image_features"], atol=1e-5)
    for extra, rows in zip(EXTRAS, golden.get("deepstack", ()), strict=False):
        np.testing.assert_allclose(outputs[extra][0], rows, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_equals_transformers(dynamic, size):
    name, _, run = dynamic
    pictures = noise(name, *size, count=2)
    outputs = run(pictures)
    assert_kept(name, "received-attention", outputs, pictures, 5)
    for number, picture in enumerate(pictures):
        for key, value in run(picture[None]).items():
            np.testing.assert_allclose(outputs[key][number], value[0], atol=1e-6, err_msg=key)


def test_the_graph_states_its_axes_and_fuses_what_attends_to_all(dynamic):
    name, model, _ = dynamic
    axes = {
        value.name: [getattr(size, "value", size) for size in value.shape]
        for value in (*model.graph.inputs, *model.graph.outputs)
    }
    assert axes == {
        "pixel_values": ["batch_size", 3, "height", "width"],
        "image_features": ["batch_size", "kept_tokens", 64],
        "kept_indices": ["batch_size", "kept_tokens"],
        "kept_scores": ["batch_size", "kept_tokens"],
        **{extra: ["batch_size", "kept_tokens", 64] for extra in EXTRAS if name == "qwen3_vl"},
    }
    kinds = [node.op_type for node in model.graph]
    whole = {"qwen2_vl": 3, "qwen2_5_vl": 2, "qwen3_vl": 4}[name]
    assert kinds.count("MultiHeadAttention") == whole
    assert kinds.count("Softmax") == TOWERS[name]["depth"] - whole + 1  # windows, and the scores
    assert not {"NonZero", "Compress", "Loop", "If", "Scan"} & set(kinds)


@pytest.mark.parametrize("method", ["divprune", "gprune", "none"])
def test_other_methods_select_from_any_number_of_tokens(method):
    name = "qwen2_5_vl"
    budget = 5 if method != "none" else LARGEST
    _, run = exported(name, method, budget)
    for size in SIZES[1:4]:
        pictures = noise(name, *size)
        assert_kept(name, method, run(pictures), pictures, budget)


@pytest.mark.parametrize("name", MODELS[:2])
def test_by_blocks_of_queries_it_is_the_same(name, monkeypatch):
    """The portable form, with standard operators only and no map of all patches by all patches."""
    monkeypatch.setattr(attention, "MAP_BYTES", 1 << 18)
    assert attention.blocks_of(2, 4 * LARGEST, 4 * LARGEST) == 5
    model, run = exported(name, portable=True)
    assert {node.domain for node in model.graph} == {""}
    for size in SIZES:
        pictures = noise(name, *size)
        assert_kept(name, "received-attention", run(pictures), pictures, 5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_fixed_size_is_the_same_module(name):
    size, edge = (3, 5), EDGE[name]
    model, run = exported(name, size=size)
    assert [*model.graph.inputs[0].shape[1:]] == [3, edge * size[0], edge * size[1]]
    pictures = noise(name, *size, count=2)
    assert_kept(name, "received-attention", run(pictures), pictures, 5)
    # The angles of the kept patches come from a constant table; what is computed with them is the
    # tower's work, not the selection's.
    maker = next(value for value in model.graph.outputs if value.name == "image_features")
    assert not maker.producer().name.startswith(SELECTION)
    kinds = [node.op_type for node in model.graph if node.name.startswith(SELECTION)]
    assert kinds.count("TopK") == 2
    assert "MultiHeadAttention" not in kinds


@pytest.mark.parametrize("name", MODELS[:2])
def test_eight_bits_see_nearly_the_same(name):
    model, run_int8 = exported(name, "none", LARGEST, int8=True)
    assert "MatMulInteger" in {node.op_type for node in model.graph}
    pictures = noise(name, 6, 5)
    theirs = encoded(name, pictures[0])[0].projected
    features = run_int8(pictures)["image_features"][0]
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(features, axis=1)
    assert ((theirs * features).sum(axis=1) / lengths).min() > 0.99


@pytest.mark.parametrize("method", ["uniform", "random"])
def test_a_method_that_needs_one_size_is_refused(method):
    with pytest.raises(PocketVLMError, match=f"{method} needs pictures of one size"):
        exported("qwen2_vl", method)
