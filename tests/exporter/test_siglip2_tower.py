"""SigLIP2's tower against transformers' module: features, and positions resized to any picture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Siglip2VisionConfig, Siglip2VisionModel

from pocketvlm_export.families.lfm2_vl_pictures import patches_of
from pocketvlm_export.towers import TOWERS
from pocketvlm_export.towers.siglip2 import resizing

EDGE, MERGE = 4, 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Siglip2VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=EDGE,
        num_patches=25,
        vision_use_head=False,
    )
    config.merge = MERGE
    return Siglip2VisionModel(config).eval()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(1, 70))
def test_resizing_is_interpolate_with_antialiasing(length, target):
    samples = np.random.default_rng(length).normal(size=(4, length, 1)).astype(np.float32)
    # Columns that are all alike: torch resizes none of a single one.
    wide = torch.from_numpy(np.repeat(samples, 3, axis=2))
    expected = torch.nn.functional.interpolate(
        wide[None], size=(target, 3), mode="bilinear", align_corners=False, antialias=True
    )[0]
    made = resizing(length, target) @ wide
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("size", [(16, 16), (40, 40), (8, 64), (24, 56), (88, 16)])
def test_features_are_transformers(model, size, blocks):
    tower = TOWERS["siglip2_vision_model"]
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *size)).astype(np.float32))
    rows, columns = (length // EDGE for length in size)
    with torch.inference_mode():
        expected = model(
            pixel_values=torch.from_numpy(patches_of(pixels.numpy(), EDGE))[None],
            pixel_attention_mask=torch.ones((1, rows * columns), dtype=torch.int32),
            spatial_shapes=torch.tensor([[rows, columns]]),
        ).last_hidden_state[0]
        hidden = tower.embeddings(model, None)(pixels[None])
        geometry = tower.geometry(model.config, rows // MERGE, columns // MERGE, blocks)
        for number, layer in enumerate(tower.layers(model)):
            hidden = tower.run(layer, number, hidden, geometry)
        made = tower.final(model)(hidden)[0]
    squares = torch.arange(rows * columns).view(rows // MERGE, MERGE, columns // MERGE, MERGE)
    order = squares.transpose(1, 2).reshape(-1)
    torch.testing.assert_close(made, expected[order], atol=1e-5, rtol=0)
