"""InternVL's tower: against transformers' own model, with and without norms on queries and keys,
and every method against its oracle."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

from pocketvlm_export.families import VisionSpec
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.verification.oracles import Encoded, find_oracle
from support.golden import DATA, TEXT, filled, recorded_maps, run_graph
from support.internvl import vision_outputs
from support.methods import KEEPING

GRID = (4, 4)
TOWER = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
    "image_size": [56, 56], "patch_size": [7, 7],
}  # fmt: skip
KINDS = {
    "internvl_vision_qk0": {"attention_bias": True, "norm_type": "layer_norm"},
    "internvl_vision_qk1": {
        "use_qk_norm": True,
        "norm_type": "rms_norm",
        "use_mean_pooling": False,
    },
}


def made(**tower):
    text = {**TEXT, "model_type": "qwen2", "num_hidden_layers": 3}
    config = InternVLConfig(
        vision_config={**TOWER, **tower}, text_config=text, image_token_id=250,
        image_seq_length=16,
    )  # fmt: skip
    torch.manual_seed(7)
    model = filled(InternVLForConditionalGeneration(config), 7)
    model.set_attn_implementation("eager")
    return model.model


def spec_of(model):
    return VisionSpec(
        model.config.vision_config, (56, 56), 16, has_cls=True, feature_layers=(3,), merge=2
    )


def exported(model, method, budget=5, **options):
    return run_graph(
        model.vision_tower,
        model.multi_modal_projector,
        spec_of(model),
        make_pruner(method, {}),
        budget,
        **options,
    )


def pictures(name):
    blocks = np.load(DATA / f"{name}.npz")["blocks"]
    pixels = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)
    return ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)


def encoded(model, picture) -> Encoded:
    """What transformers computes of one picture, (3, 56, 56)."""
    with recorded_maps(model) as maps, torch.inference_mode():
        pixels = torch.from_numpy(picture[None])
        features = model.vision_tower(pixels).last_hidden_state[:, 1:]
        projected = model.get_image_features(
            pixels, vision_feature_layer=-1, vision_feature_select_strategy="default"
        ).pooler_output
        shuffled = model.pixel_shuffle(features.reshape(1, 8, 8, -1), 0.5).flatten(1, 2)
    return Encoded(
        maps[:3], 1, shuffled[0].double().numpy(), projected[0].double().numpy(), GRID, merge=2
    )


@pytest.mark.parametrize("name", ["internvl_vision_qk0", "internvl_vision_qk1"])
def test_it_equals_the_golden_vectors(name):
    golden, model = np.load(DATA / f"{name}.npz"), made(**KINDS[name])
    _, run = exported(model, "fastervlm")
    outputs = run(pictures(name))
    kept = golden["kept_indices"]
    np.testing.assert_array_equal(outputs["kept_indices"], kept)
    np.testing.assert_allclose(
        outputs["kept_scores"], np.take_along_axis(golden["scores"], kept, 1), atol=1e-6
    )
    features = np.take_along_axis(golden["all_features"], kept[..., None], 1)
    np.testing.assert_allclose(outputs["image_features"], features, atol=1e-5)
    _, run = exported(model, "none", 16)
    np.testing.assert_allclose(
        run(pictures(name))["image_features"], golden["all_features"], atol=1e-5
    )


@pytest.mark.parametrize("method", KEEPING)
def test_every_method_keeps_what_its_oracle_keeps(method):
    model = made(**KINDS["internvl_vision_qk1"])
    pruner = make_pruner(method, {})
    pruner.settle(spec_of(model))
    budget = 6 if pruner.prunes else 16
    _, run = exported(model, method, budget)
    noise = np.random.default_rng(1).normal(size=(2, 3, 56, 56)).astype(np.float32)
    outputs = run(noise)
    for number, picture in enumerate(noise):
        theirs = encoded(model, picture)
        ranking = find_oracle(method)(theirs, pruner.options)
        kept, scores = outputs["kept_indices"][number], outputs["kept_scores"][number]
        assert ranking.distance(kept, scores) < 1e-5
        assert ranking.score_difference(kept, scores) < 1e-5
        if ranking.gap(budget) > 1e-4:
            np.testing.assert_array_equal(kept, ranking.kept(budget))
        np.testing.assert_allclose(
            outputs["image_features"][number], theirs.projected[kept], atol=1e-5
        )


def test_attention_is_fused_or_left_standard():
    model = made(**KINDS["internvl_vision_qk1"])
    fused, run = exported(model, "vtc-cls")
    portable, run_portable = exported(model, "vtc-cls", portable=True)
    kinds = [node.op_type for node in fused.graph]
    assert kinds.count("MultiHeadAttention") == 3
    assert {node.domain for node in portable.graph} == {""}
    noise = np.random.default_rng(2).normal(size=(1, 3, 56, 56)).astype(np.float32)
    expected = run(noise)
    for name, value in run_portable(noise).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "name", "changes"),
    [
        ("tiny-internvl", "internvl_vision_qk0", {}),
        ("tiny-internvl-6b", "internvl_vision_qk1", {"use_mean_pooling": False}),
    ],
)
def test_golden_weights_in_a_checkpoint(make_tiny, preset, name, changes):
    folder, golden = make_tiny(preset), np.load(DATA / f"{name}.npz")
    stored = load_file(folder / "model.safetensors")
    for key, value in made(**KINDS[name]).state_dict().items():
        if not key.startswith("language_model."):
            assert changes or stored[key].shape == value.shape
            stored[key] = value.contiguous()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    opened, kept = open_checkpoint(str(folder)), golden["kept_indices"]
    pruner = make_plan(opened, ExportOptions("fastervlm")).pruner
    features, indices, _ = vision_outputs(opened, pruner, 5, pictures(name))
    np.testing.assert_array_equal(indices, kept)
    expected = np.take_along_axis(golden["all_features"], kept[..., None], 1)
    np.testing.assert_allclose(features, expected, atol=1e-5)
