"""Further features of each token: from a tower's layers into the graph, and held against the
reference beside the others."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.graphs import PrunedVisionEncoder, VisionEncoderGraph, trace
from pocketvlm_export.onnx_passes import fuse, tidy
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.towers import TOWERS
from pocketvlm_export.towers.base import Extra
from pocketvlm_export.towers.clip import Clip
from pocketvlm_export.verification.kept import compare_kept
from pocketvlm_export.verification.oracles import Ranking
from pocketvlm_export.verification.vision_reference import VisionReference

BUDGET, HIDDEN, MERGE = 3, 12, 2
LAYERS = {"shallow": 1, "deep": 3}  # the deepest is computed for kept tokens alone


class ClipWithExtras(Clip):
    """CLIP whose first and third hidden states the decoder would read too."""

    def __init__(self, projectors):
        self.projectors = projectors

    def extras(self, tower):
        return {name: Extra(LAYERS[name], self.projectors[name]) for name in LAYERS}


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
    )
    projectors = {name: nn.Linear(16 * MERGE**2, HIDDEN) for name in LAYERS}
    tower = CLIPVisionModel(config).eval()
    tower.set_attn_implementation("eager")
    return tower, nn.Linear(16 * MERGE**2, HIDDEN).eval(), projectors


def squares(patches):
    """The patches of 2 x 2 squares of a 4 x 4 grid side by side: (B, 16, C) -> (B, 4, 4 C)."""
    numbers = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    return torch.stack([patches[:, square].flatten(1) for square in numbers], dim=1)


@pytest.mark.parametrize("method", ["fastervlm", "divprune"])
def test_the_graph_gives_them_of_kept_tokens(parts, tmp_path, monkeypatch, method):
    tower, projector, projectors = parts
    monkeypatch.setitem(TOWERS, "clip_vision_model", ClipWithExtras(projectors))
    spec = VisionSpec(
        tower.config, (28, 28), 4, True, feature_layers=(3,), merge=MERGE, extras=tuple(LAYERS)
    )
    module = PrunedVisionEncoder(tower, projector, spec, make_pruner(method, {}), BUDGET)
    graph = VisionEncoderGraph(module)
    model = trace(graph)
    tidy(model, graph.output_axes)
    fuse(model, graph.kind)
    ir.save(model, tmp_path / "vision.onnx")
    session = ort.InferenceSession(tmp_path / "vision.onnx")
    pixels = torch.randn(2, 3, 28, 28)
    outputs = dict(
        zip(graph.output_names, session.run(None, {"pixel_values": pixels.numpy()}), strict=True)
    )
    with torch.inference_mode():
        states = tower(pixels, output_hidden_states=True).hidden_states
        expected = {
            name: projectors[name](squares(states[layer][:, 1:])).numpy()
            for name, layer in LAYERS.items()
        }
    kept = outputs["kept_indices"]
    assert kept.shape == (2, BUDGET)
    for name, every in expected.items():
        rows = np.take_along_axis(every, kept[:, :, None], axis=1)
        np.testing.assert_allclose(outputs[name], rows, atol=2e-6)


def test_the_gate_sees_a_difference_in_them():
    random = np.random.default_rng(0)
    features, extra = random.standard_normal((2, 1, 2, 4), dtype=np.float32)
    kept = np.array([[1, 3]])
    ranking = Ranking(np.array([0.1, 0.9, 0.2, 0.8]))
    reference = VisionReference(features, kept, [ranking], {"deep": extra})
    scores = np.array([[0.9, 0.8]], dtype=np.float32)
    encoded = VisionFeatures(features, kept, scores, extras={"deep": extra})
    (row,) = compare_kept(encoded, reference)
    assert np.abs(row.ours - row.theirs).max() == 0
    changed = replace(encoded, extras={"deep": extra + 0.5})
    (row,) = compare_kept(changed, reference)
    assert np.abs(row.ours - row.theirs).max() == pytest.approx(0.5)
