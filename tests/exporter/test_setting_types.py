"""Values of every type in every setting of a checkpoint: a plan or one line, never anything else;
and null, which is absent, against transformers' own image processor."""

import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from pocketvlm.errors import CheckpointError, PocketVLMError
from pocketvlm.layouts import make_layout
from pocketvlm_export import ExportOptions
from pocketvlm_export.checkpoint import Settings, image_processor
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.pipeline import prepare
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from support.checkpoints import edit_json, edit_pictures

PRESETS = ["tiny-llama", "tiny-smolvlm", "tiny-internvl", "tiny-qwen2.5-vl", "tiny-llava-next"]
# Beside the keys that a file has: those that are read where they are stated.
OPTIONAL = {
    "config.json": (
        "architectures auto_map dtype eos_token_id image_token_id image_token_index model_type "
        "quantization_config tie_word_embeddings torch_dtype vision_feature_layer"
    ),
    "preprocessor_config.json": (
        "auto_map crop_size crop_to_patches do_center_crop do_convert_rgb do_image_splitting "
        "do_normalize do_pad do_rescale do_resize feature_extractor_type image_grid_pinpoints "
        "image_mean image_processor_type image_std max_image_size max_patches max_pixels "
        "merge_size min_patches min_pixels patch_size resample rescale_factor size"
    ),
    "processor_config.json": "auto_map chat_template image_processor image_token processor_class",
    "generation_config.json": "eos_token_id",
    "tokenizer_config.json": (
        "added_tokens_decoder additional_special_tokens bos_token chat_template eos_token "
        "extra_special_tokens image_token model_max_length tokenizer_class"
    ),
}
VALUES = [None, [], "x", 3, -1, 0, True, False, 10**12, 10**400, float("nan"), 2.5]
VALUES += [{}, {"a": 1}, [None], ["x"], [3, 3]]
CASES = 50  # of each preset


def paths(node, prefix=()):
    """The keys that lead to each value of a JSON object, lists by their first element."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:1])
    for key, value in items:
        yield (*prefix, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*prefix, key))


def put(node, path, value):
    """A copy with one value replaced, or added."""
    made = json.loads(json.dumps(node))
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def cases_of(folder):
    """(file, path, value) for every key and every kind of value."""
    for file, names in OPTIONAL.items():
        stated = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        listed = dict.fromkeys([*paths(stated), *((name,) for name in names.split())])
        yield from ((file, path, value) for path in listed for value in VALUES)


def outcome_of(folder):
    """The line of a refusal, or that there is a plan; anything else is raised."""
    try:
        prepare(str(folder), folder.parent / "out", ExportOptions())
    except PocketVLMError as refusal:
        return str(refusal)
    return "a plan"


@pytest.mark.parametrize("preset", PRESETS)
def test_any_value_gives_a_plan_or_one_line(make_tiny, tmp_path, preset):
    source = make_tiny(preset)
    cases = list(cases_of(source))
    assert len(cases) > 1500
    folder = shutil.copytree(source, tmp_path / "changed")
    outcomes = set()
    for file, path, value in random.Random(preset).sample(cases, CASES):
        original = (folder / file).read_text() if (folder / file).is_file() else "{}"
        (folder / file).write_text(json.dumps(put(json.loads(original), path, value)))
        outcome = outcome_of(folder)
        assert "\n" not in outcome, (file, path, value)
        outcomes.add(outcome == "a plan")
        (folder / file).write_text(original)
    assert outcomes == {True, False}


# What crashed or was refused for its type alone.
TYPES = [
    ("config.json", ("architectures",), 3),
    ("config.json", ("model_type",), ["llava"]),
    ("config.json", ("image_token_id",), "x"),
    ("config.json", ("image_token_index",), 10**400),
    ("config.json", ("text_config", "hidden_size"), 10**400),
    ("config.json", ("text_config", "num_attention_heads"), 0),
    ("config.json", ("vision_config", "image_size"), [3, 3]),
    ("config.json", ("vision_config", "image_size"), 10**12),
    ("config.json", ("vision_config", "intermediate_size"), 0),
    ("config.json", ("vision_config", "patch_size"), 0),
    ("config.json", ("vision_config", "patch_size"), 43),
    ("tokenizer_config.json", ("model_max_length",), "x"),
    ("processor_config.json", ("image_processor",), 3),
    ("processor_config.json", ("image_processor", "do_resize"), "yes"),
    ("processor_config.json", ("image_processor", "image_mean"), [0.5, 0.5]),
    ("processor_config.json", ("image_processor", "rescale_factor"), float("nan")),
    ("processor_config.json", ("image_processor", "resample"), 9),
]
HARMLESS = {"architectures"}


@pytest.mark.parametrize(("file", "path", "value"), TYPES, ids=str)
def test_a_value_of_another_type_is_named(make_tiny, tiny_checkpoint, tmp_path, file, path, value):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "changed")
    stated = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(put(stated, path, value)))
    if path[-1] in HARMLESS:
        prepare(str(folder), tmp_path / "out", ExportOptions())
        return
    with pytest.raises(PocketVLMError) as refusal:
        prepare(str(folder), tmp_path / "out", ExportOptions())
    line = str(refusal.value)
    assert "\n" not in line
    assert len(line) < 500
    assert "export" not in refusal.value.advice


@pytest.mark.parametrize("key", ["quantization_config", "architectures", "mm_vision_tower"])
def test_null_in_the_configuration_is_absent(tiny_checkpoint, tmp_path, key):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "null")
    edit_json(folder, **{key: None})
    prepare(str(folder), tmp_path / "out", ExportOptions())


def pixels(folder):
    """Of one picture: ours, as an artifact would make them, and transformers'."""
    checkpoint = inspect_checkpoint(str(folder))
    plan = make_plan(checkpoint, ExportOptions())
    config = checkpoint.family.image_processor_config(
        image_processor(folder), plan.spec, plan.layout
    )
    layout = make_layout(plan.spec.layout_config(plan.layout.stated), config)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    ours = layout.cut(image).pixel_values
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        return ours, checkpoint.family.reference_pixels(processor, [image], plan.layout)


# The class's default is another model's, or, where it is null, the class itself fails.
DO_NOT_SUIT = {
    "auto_map",
    "crop_size",
    "do_resize",  # of LLaVA-NeXT, whose tiles the runtime always resizes
    "image_grid_pinpoints",
    "image_mean",
    "image_processor_type",
    "image_std",
    "max_image_size",
    "resample",
    "rescale_factor",
    "size",
}


@pytest.mark.parametrize("value", [None, "absent"])
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-llava-next", "tiny-smolvlm"])
def test_null_in_an_image_processor_is_its_classs_default(make_tiny, tmp_path, preset, value):
    """One key at a time: pixels equal transformers', or it is refused because the default does not
    suit the tower."""
    source = make_tiny(preset)
    refused = set()
    for key in OPTIONAL["preprocessor_config.json"].split():
        if key == "auto_map":  # transformers fails on null; of ours it is not given any
            continue
        folder = shutil.copytree(source, tmp_path / key)
        edit_pictures(folder, **{key: None})
        if value == "absent":
            for name in ("processor_config.json", "preprocessor_config.json"):
                stated = json.loads((folder / name).read_text())
                stated.get("image_processor", stated).pop(key, None)
                (folder / name).write_text(json.dumps(stated))
        try:
            ours, theirs = pixels(folder)
        except PocketVLMError:
            refused.add(key)
            continue
        assert ours.shape == theirs.shape, key
        assert np.abs(ours - theirs).max() < 1e-5, key
    assert refused <= DO_NOT_SUIT


def test_the_reader_names_file_key_value_and_what_was_expected():
    settings = Settings({"a": {"edge": "wide", "none": None, "sizes": [1, True]}}, "config.json")
    section = settings.section("a")
    with pytest.raises(CheckpointError) as refusal:
        section.integer("edge", most=9)
    assert str(refusal.value) == (
        "config.json has a.edge 'wide': expected a whole number from 1 to 9; correct config.json"
    )
    assert section.integer("none", 7) == 7
    assert section.boolean("none", True) is True
    assert section.section("none").stated("x") is None
    for read in (section.integer, section.number, section.text, section.boolean):
        with pytest.raises(CheckpointError, match=r"config.json has no a\.none"):
            read("none")
    with pytest.raises(CheckpointError, match=r"a\.sizes \[1, True\]"):
        section.integers("sizes")
    with pytest.raises(CheckpointError, match=r"a\.edge 'wide': expected an object"):
        section.section("edge")
    huge = Settings({"n": 10**4000}, "config.json")
    with pytest.raises(CheckpointError, match="expected a number"):
        huge.number("n")
