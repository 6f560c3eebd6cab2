"""``--image-size``: pictures, or tiles, of another size than a checkpoint was made for. What is
interpolated and read is held against transformers' own classes, and against what torch and numpy
make of the tables."""

import functools
import json
import math

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pocketvlm import VLM
from pocketvlm.artifact import Manifest
from pocketvlm.artifact.specs import Pruning
from pocketvlm.cli import main
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm_export import ExportOptions, export, upstream
from pocketvlm_export.caps import Caps
from pocketvlm_export.families.picture_size import smaller_sizes
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.packaging import check_device_settings
from pocketvlm_export.planning import make_plan
from pocketvlm_export.towers import TOWERS
from pocketvlm_export.verification import verify_against
from pocketvlm_export.verification.vision_reference import vision_reference
from support.checkpoints import edit_pictures
from train_demo.scenes import question_set

SIDE, PATCH, WIDTH = 4, 7, 8  # of the tables below: rows, pixels of a patch, channels
PLAIN = {
    "hidden_size": WIDTH,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE * PATCH,
    "patch_size": PATCH,
}
CLASSES = {
    "clip_vision_model": (transformers.CLIPVisionConfig, PLAIN),
    "siglip_vision_model": (transformers.SiglipVisionConfig, PLAIN),
    "dinov2": (
        transformers.Dinov2Config,
        {name: value for name, value in PLAIN.items() if name != "intermediate_size"},
    ),
    "internvl_vision": (
        transformers.InternVLVisionConfig,
        {
            **PLAIN,
            "image_size": [SIDE * PATCH] * 2,
            "patch_size": [PATCH] * 2,
            "use_absolute_position_embeddings": True,
        },
    ),
    "idefics3_vision": (transformers.models.idefics3.Idefics3VisionConfig, PLAIN),
}
LOOKED_UP = "idefics3_vision"
# A checkpoint of each family, and of each tower of LLaVA's, with a size and its tokens.
READ_AT = {
    "tiny-llama": (28, 16),
    "tiny-dinov2": (63, 81),
    "tiny-llava-next": (28, 16),
    "tiny-llava-onevision": (28, 16),
    "tiny-video-llava": (21, 9),
    "tiny-smolvlm": (56, 16),
    "tiny-idefics3": (42, 9),
    "tiny-internvl": (42, 9),
    "tiny-gemma3": (84, 9),
    "tiny-paligemma": (28, 16),
}


@pytest.fixture(scope="module")
def opened(make_tiny):
    """A preset's checkpoint, written and opened once."""
    return functools.cache(lambda preset: open_checkpoint(str(make_tiny(preset))))


@functools.cache
def tower_of(kind):
    """A tower of one layer with a random table."""
    torch.manual_seed(0)
    config, values = CLASSES[kind]
    model = TOWERS[kind].model(config(**values)).eval()
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


def at_size(opened, size, **options):
    return make_plan(opened, ExportOptions(image_size=size, **options))


def patches_only(model, pixels, kind):
    """The first hidden state without positions, in front of any norm: (1, tokens, C)."""
    embeddings = model.embeddings
    if kind in ("dinov2", "internvl_vision"):
        return torch.cat([embeddings.cls_token, embeddings.patch_embeddings(pixels)], dim=1)
    patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    if kind != "clip_vision_model":
        return patches
    return torch.cat([embeddings.class_embedding.view(1, 1, -1), patches], dim=1)


def table_of(model):
    embeddings = model.embeddings
    if hasattr(embeddings, "position_embeddings"):
        return embeddings.position_embeddings[0].detach()
    return embeddings.position_embedding.weight.detach()


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(sorted(CLASSES)), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_the_table_is_torchs_bicubic_one_or_looked_up_where_a_patch_begins(kind, rows, columns):
    """[CLS] keeps its row; the map of the others is interpolated in float32, without antialiasing.
    Idefics3's are those of the cell of the table that a patch begins in."""
    model, size = tower_of(kind), (rows * PATCH, columns * PATCH)
    table = table_of(model)
    before = len(table) - SIDE**2
    pixels = torch.randn(1, 3, *size)
    with torch.inference_mode():
        module = TOWERS[kind].embeddings(model, size)
        module = module[0] if isinstance(module, torch.nn.Sequential) else module
        positions = (module(pixels) - patches_only(model, pixels, kind))[0]
    square = table[before:].unflatten(0, (SIDE, SIDE))
    if kind == LOOKED_UP:
        down, across = (
            [math.floor(number * SIDE / count + 1e-6) for number in range(count)]
            for count in (rows, columns)
        )
        expected = square[down][:, across].flatten(0, 1)
    else:
        expected = (
            functional.interpolate(
                square.permute(2, 0, 1)[None], size=(rows, columns), mode="bicubic"
            )[0]
            .permute(1, 2, 0)
            .flatten(0, 1)
        )
    np.testing.assert_allclose(positions[before:], expected, atol=2e-5)
    np.testing.assert_allclose(positions[:before], table[:before], atol=2e-5)


@pytest.mark.parametrize("preset", READ_AT)
def test_a_tower_reads_another_size_as_transformers_class_does(preset, opened):
    """Kept sets equal, features within the gate's bound: the gate's reference, whose tower is
    called as transformers asks for it."""
    (edge, tokens), checkpoint = READ_AT[preset], opened(preset)
    plan = at_size(checkpoint, (edge, edge))
    spec, family, weights = plan.spec, plan.spec.family, plan.checkpoint.weights
    assert (spec.vision.tokens, spec.vision.image_size) == (tokens, (edge, edge))
    assert spec.vision.made_for == checkpoint.spec.vision.image_size
    assert plan.budgets == (max(1, tokens // 4),)
    check_device_settings(plan)  # the artifact's image processor makes pictures of that size
    tower = family.load_tower(weights, spec, layers=spec.vision.depth, attention="eager")
    module = PrunedVisionEncoder(
        tower, family.load_projector(weights, spec), spec.vision, plan.pruner, plan.budgets[0]
    ).eval()
    pixels = torch.randn(1, 3, edge, edge, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, kept, *_ = module(pixels)
        stretching = TOWERS[spec.vision.config.model_type].stretching
        whole = tower(pixels, **stretching, output_hidden_states=True)
    pruning = Pruning(plan.pruner.name, tokens, plan.budgets, plan.budgets[0], plan.pruner.options)
    theirs = vision_reference(plan.checkpoint, pruning, pixels.numpy())[plan.budgets[0]]
    assert np.array_equal(kept, theirs.kept_indices)
    np.testing.assert_allclose(features, theirs.image_features, atol=1e-4)
    first = module.embeddings(pixels)
    np.testing.assert_allclose(first.detach(), whole.hidden_states[0], atol=1e-5)


def test_a_picture_need_not_be_square(make_tiny, tmp_path):
    """Where the image processor squeezes pictures into a size, and nothing wants a square."""
    checkpoint = make_tiny("tiny-llama")
    size = {"height": 42, "width": 42}
    edit_pictures(checkpoint, do_center_crop=False, size=size)
    plan = at_size(open_checkpoint(str(checkpoint)), (28, 42))
    assert (plan.spec.vision.grid, plan.spec.vision.tokens) == ((4, 6), 24)
    check_device_settings(plan)
    edit_pictures(checkpoint, do_resize=False)
    with pytest.raises(RequestError, match="does not resize"):
        at_size(open_checkpoint(str(checkpoint)), (28, 42))


def test_what_follows_from_a_size(opened):
    """Tiles as many as before, tokens counted in every file, no more memory, and nothing for the
    checkpoint's own size."""
    for preset, where in (("tiny-llava-next", "pinpoints"), ("tiny-smolvlm", "longest_edge")):
        own, small = (at_size(opened(preset), size) for size in (None, (28, 28)))
        if preset == "tiny-smolvlm":
            small = at_size(opened(preset), (42, 42))
        assert [*own.totals()[own.budgets[0]]] == [*small.totals()[small.budgets[0]]]
        share = small.spec.vision.tile_size[0] / own.spec.vision.tile_size[0]
        before, after = (plan.layout.stated[where] for plan in (own, small))
        np.testing.assert_allclose(after, np.array(before) * share)
        assert small.spec.vision.sequence < own.spec.vision.sequence
        assert small.footprint().total <= own.footprint().total
    same = at_size(opened("tiny-llama"), (42, 42))
    assert same.spec == opened("tiny-llama").spec
    gemma = at_size(opened("tiny-gemma3"), (84, 84)).spec
    counted = [
        gemma.family.processor_config({"image_seq_length": 16}, gemma, None, 2),
        gemma.family.image_processor_config({"image_seq_length": 16}, gemma, None),
    ]
    assert [each["image_seq_length"] for each in counted] == [9, 9]
    config = gemma.family.model_config({"vision_config": {"image_size": 112}}, gemma)
    assert config["vision_config"] == {"image_size": 84}
    assert config["mm_tokens_per_image"] == 9


def test_sizes_worth_a_try(opened):
    """Whole tokens, about three quarters and half of each edge."""
    assert smaller_sizes(opened("tiny-internvl").spec) == ((42, 42), (28, 28))
    assert smaller_sizes(open_checkpoint("demo").spec) == ((72, 72), (48, 48))
    assert smaller_sizes(opened("tiny-qwen2-vl").spec) == ()
    for preset in READ_AT:
        for size in smaller_sizes(opened(preset).spec):
            assert at_size(opened(preset), size).spec.vision.image_size == size


@pytest.mark.parametrize(
    ("preset", "size", "reason"),
    [
        ("tiny-llama", (30, 30), "multiples of 7 pixels, the edge of a token; give 28x28"),
        ("tiny-internvl", (35, 35), "multiples of 14 pixels"),
        ("tiny-gemma3", (63, 63), "multiples of 28 pixels"),
        ("tiny-llama", (7, 7), "expected 14x14 to 84x84, a quarter to twice the size"),
        ("tiny-llama", (91, 91), "a quarter to twice"),
        ("tiny-llama", (28, 42), "expected one edge for height and width"),
        ("tiny-smolvlm", (42, 84), "expected one edge for height and width"),
        ("tiny-qwen2-vl", (56, 56), "keep about their own size: give --max-pixels or --fixed-size"),
        ("tiny-lfm2-vl", (64, 64), "give --max-pixels or --fixed-size"),
    ],
)
def test_sizes_that_are_refused(preset, size, reason, opened):
    with pytest.raises(RequestError, match=reason) as refused:
        at_size(opened(preset), size)
    assert refused.value.setting == "image_size"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [0, (28,), (28, 0), "28", (28, 28, 28), 2.5, True])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(RequestError):
        ExportOptions(image_size=size)


def test_one_number_is_both_edges():
    assert ExportOptions(image_size=28).image_size == (28, 28)


def dry_run(model, folder, *arguments):
    command = ["export", str(model), "-o", str(folder), "--dry-run", "--json", *arguments]
    return CliRunner().invoke(main, command)


def test_the_command_line_takes_one_number_or_two(tiny_checkpoint, tmp_path):
    for size in ("28", "28x28"):
        done = dry_run(tiny_checkpoint, tmp_path / "out", "--image-size", size)
        plan = json.loads(done.stdout)
        assert plan["image_size"] == {"asked": [28, 28], "made_for": [42, 42], "tokens": 16}
    for size in ("28x", "x28", "a", "-28", "2.8", "9" * 5000, "²"):
        done = dry_run(tiny_checkpoint, tmp_path / "out", "--image-size", size)
        assert done.exit_code == 2, size
        assert "two numbers" in done.stderr


@pytest.mark.parametrize(
    ("preset", "stated", "made"),
    [
        ("tiny-llama", "30", [28, 28]),
        ("tiny-llama", '"28x35"', [28, 28]),
        ("tiny-llama", "1", [14, 14]),
        ("tiny-llama", "224", None),
        ("tiny-qwen2-vl", "56", None),
    ],
)
def test_a_size_that_a_target_suggests_is_made_to_suit(preset, stated, made, opened, tmp_path):
    target = tmp_path / "board.toml"
    target.write_text(f'description = "A board."\nimage_size = {stated}\n')
    model = opened(preset).source.folder
    done = dry_run(model, tmp_path / "out", "--target", str(target))
    assert done.exit_code == 0, done.output
    size = json.loads(done.stdout).get("image_size")
    assert (size and size["asked"]) == made


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, which was made for 96 x 96 pixels, at 72 x 72."""
    folder = tmp_path_factory.mktemp("demo") / "at-72"
    return export("demo", folder, ExportOptions(image_size=(72, 72)))


def test_a_whole_export_goes_through_the_gate(demo):
    vision, pruning, parity = demo.manifest.vision, demo.manifest.pruning, demo.manifest.parity
    assert (vision.image_size, vision.made_for) == ((72, 72), (96, 96))
    assert (pruning.tokens_before, pruning.budgets) == (81, (20,))
    assert parity.passed
    assert parity.vision["kept_equal"]
    assert parity.pixels["passed"]
    assert parity.decoder["greedy_equal"] == 16
    stated = json.loads((demo.output / "preprocessor_config.json").read_text())
    assert stated["crop_size"] == {"height": 72, "width": 72}
    config = json.loads((demo.output / "config.json").read_text())
    assert config["vision_config"]["image_size"] == 72
    assert "72x72 pixels" in (demo.output / "README.md").read_text()
    shown = CliRunner().invoke(main, ["inspect", str(demo.output)]).stdout
    assert "72x72 pixels, where the checkpoint was made for 96x96" in shown


def test_it_is_verified_at_its_own_size(demo):
    assert verify_against(demo.output, "demo")["passed"]


def test_it_still_answers(demo):
    """A guess is right in a fifth of the questions; see docs/layouts.md for the figures."""
    vlm = VLM.load(demo.output)
    asked = list(question_set("test", 60))
    right = [
        vlm.generate(question.text, images=[picture]).text.strip() == question.answer
        for picture, question in asked
    ]
    assert np.mean(right) > 0.4


def test_a_manifest_that_contradicts_itself_is_refused(demo):
    stated = json.loads((demo.output / "pocketvlm.json").read_text())
    assert Manifest.from_json(json.dumps(stated)).vision.made_for == (96, 96)
    for made_for in ([72, 72], [96], ["96", "96"], [0, 96], 96):
        stated["vision"]["made_for"] = made_for
        with pytest.raises(ArtifactError):
            Manifest.from_json(json.dumps(stated))


def test_pictures_beside_clips_have_the_same_size(opened):
    plan = at_size(opened("tiny-video-llava"), (28, 28), media=("video", "image"))
    for each in (plan, *plan.beside.values()):
        assert each.spec.vision.image_size == (28, 28)
        assert each.spec.vision.made_for == (42, 42)
        assert each.spec.vision.config.image_size == 42  # the table that the weights have
    check_device_settings(plan)


def test_other_caps_still_apply(opened):
    plan = at_size(opened("tiny-llava-next"), (28, 28), caps=Caps(max_tiles=2))
    assert plan.layout.stated["pinpoints"] == [[28, 56], [56, 28]]
    assert upstream.tile_grid((30, 60), plan.layout.stated["pinpoints"], 28) == (1, 2)
