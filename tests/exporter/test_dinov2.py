"""LLaVA on DINOv2 as published: BitImageProcessor, and pictures of another size than the tower's
table of positions, against transformers' own model and processor."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from make_checkpoint import PRESETS
from pocketvlm import VLM, Sampling
from pocketvlm.errors import CheckpointError
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.pruning import make_pruner
from pocketvlm_export.quiet import quiet_transformers
from support.checkpoints import edit_json, edit_pictures

# As facebook/dinov2-small has it but for the sizes: a table for 518 pixels, crops of 224.
PICTURES = {
    "crop_size": {"height": 42, "width": 42},
    "image_mean": [0.485, 0.456, 0.406],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 48},
}
SIZES = [(64, 48), (31, 200), (42, 42)]


def as_uploaded(name):
    """As transformers 4 named a tower's attention, and published files have it."""
    if not name.startswith("vision_tower."):
        return name
    for new, old in (("q", "query"), ("k", "key"), ("v", "value")):
        name = name.replace(f"attention.{new}_proj", f"attention.attention.{old}")
    return name.replace("attention.o_proj", "attention.output.dense")


def of_table(make_tiny, edge, **pictures):
    """A checkpoint whose tower has positions for pictures of ``edge`` pixels."""
    folder = make_tiny(PRESETS["tiny-dinov2"].but(vision={"image_size": edge}), layout="flat")
    path = folder / "model.safetensors"
    save_file({as_uploaded(name): each for name, each in load_file(path).items()}, path)
    edit_pictures(folder, **{**PICTURES, **pictures})
    edit_json(folder, image_seq_length=36)
    return folder


@pytest.fixture(scope="module")
def published(make_tiny):
    return of_table(make_tiny, 70)


def picture(width, height):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def theirs_of(folder):
    with quiet_transformers():
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        return model, AutoImageProcessor.from_pretrained(folder, backend="pil")


@pytest.mark.parametrize(
    ("edge", "pictures"),
    [
        (70, {}),
        (28, {}),
        (70, {"crop_size": {"height": 35, "width": 56}}),
        (42, {"crop_size": {"height": 28, "width": 63}}),
        (70, {"crop_size": {"height": 45, "width": 45}}),
        (42, {"do_center_crop": False, "size": {"height": 56, "width": 56}}),
    ],
    ids=["smaller", "larger", "not square", "as many patches", "no whole patches", "squeezed"],
)
def test_features_equal_those_of_transformers(make_tiny, edge, pictures):
    folder = of_table(make_tiny, edge, **pictures)
    model, processor = theirs_of(folder)
    checkpoint = open_checkpoint(str(folder))
    spec, family = checkpoint.spec, checkpoint.family
    tower = family.load_tower(checkpoint.weights, spec, layers=spec.vision.depth, attention="eager")
    projector = family.load_projector(checkpoint.weights, spec)
    encoder = PrunedVisionEncoder(
        tower, projector, spec.vision, make_pruner("none", {}), spec.vision.tokens
    )
    pixels = processor(picture(64, 48), return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape[2:]) == spec.vision.image_size
    with torch.inference_mode():
        expected = model.model.get_image_features(pixels).pooler_output[0]
        features = encoder(pixels)[0][0]
    assert features.shape == expected.shape
    assert torch.abs(features - expected).max() <= 1e-5


def test_answers_equal_those_of_transformers(published, tmp_path):
    export(
        str(published),
        tmp_path / "out",
        ExportOptions("none", vision_precisions=("fp32",), decoder_precisions=("fp32",)),
    )
    model, processor = theirs_of(published)
    stated = json.loads((tmp_path / "out" / "pocketvlm.json").read_text())["vision"]
    assert stated["image_size"] == [42, 42]
    vlm = VLM.load(tmp_path / "out")
    for size in SIZES:
        image = picture(*size)
        answer = vlm.generate("what is it?", images=[image], sampling=Sampling(max_new_tokens=8))
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        ids = torch.tensor([vlm.parts.prompter.encode("what is it?", 1, slots=36).tolist()])
        with torch.inference_mode(), quiet_transformers():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                do_sample=False,
                max_new_tokens=8,
            )
        assert list(answer.token_ids) == made[0, ids.shape[1] :].tolist()


def test_pictures_smaller_than_a_patch_are_refused(make_tiny):
    folder = of_table(make_tiny, 42, crop_size={"height": 6, "width": 42})
    with pytest.raises(CheckpointError, match="at least one patch of 7 pixels"):
        open_checkpoint(str(folder))
