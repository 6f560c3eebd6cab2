"""Settings that stand in two files of a checkpoint: which is taken, against transformers' own
classes on the same folder, and what is said where they differ."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    LlavaProcessor,
    VideoLlavaImageProcessor,
)

from pocketvlm.errors import CheckpointError
from pocketvlm.layouts import make_layout
from pocketvlm.text.prompts import Prompter
from pocketvlm.text.templates import ChatTemplate
from pocketvlm_export import ExportOptions
from pocketvlm_export.checkpoint import chat_template, image_processor, load_tokenizer
from pocketvlm_export.checkpoint.places import END_OF_ANSWER, first
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.pipeline import prepare
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from support.checkpoints import edit_json, edit_pictures, nest_pictures

SIZES = [(100, 60), (40, 84), (90, 90)]
# A change of pixels that each family's image processor can follow.
CHANGES = {
    "tiny-llama": {"image_mean": [0.1, 0.2, 0.3], "resample": 2},
    "tiny-llava-next": {"image_std": [0.5, 0.5, 0.5], "resample": 2},
    "tiny-idefics3": {"do_image_splitting": False},
    "tiny-smolvlm": {"do_resize": False, "image_mean": [0.4, 0.4, 0.4]},
    "tiny-internvl": {"max_patches": 3, "do_rescale": False},
    "tiny-qwen2.5-vl": {"size": {"shortest_edge": 784, "longest_edge": 7840}, "min_pixels": None},
}
# Of processor_config.json's nested object, and of the file of its own: what each states.
MIXTURES = {
    "nested": (True, None),
    "file": (None, True),
    "stale file": (True, False),
    "stale nested": (False, True),
    "nested null": ("null", True),
    "alike": (True, True),
}


@pytest.fixture
def copy(make_tiny, tmp_path):
    """A checkpoint of a preset that a test may change."""
    made = {}

    def of(preset):
        if preset not in made:
            made[preset] = make_tiny(preset)
        return shutil.copytree(made[preset], tmp_path / preset)

    return of


def picture(width, height):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def mix(folder, nested, own, changes):
    """Write an image processor with ``changes`` where a place is True and without them where it is
    False; None is not such a place."""
    path = folder / "preprocessor_config.json"
    plain = json.loads(path.read_text())
    changed = {k: v for k, v in {**plain, **changes}.items() if v is not None}
    if "size" in changes:
        changed.pop("max_pixels", None)
    states = {True: changed, False: plain, "null": None}
    processor = (
        json.loads((folder / "processor_config.json").read_text() or "{}")
        if (folder / "processor_config.json").is_file()
        else {}
    )
    processor.pop("image_processor", None)
    if nested is not None:
        processor["image_processor"] = states[nested]
    (folder / "processor_config.json").write_text(json.dumps(processor))
    path.unlink() if own is None else path.write_text(json.dumps(states[own]))


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("preset", CHANGES)
def test_pixels_equal_those_of_transformers_processor(copy, preset, mixture):
    folder = copy(preset)
    mix(folder, *MIXTURES[mixture], CHANGES[preset])
    checkpoint = inspect_checkpoint(str(folder))
    plan = make_plan(checkpoint, ExportOptions())
    family, layout = checkpoint.family, plan.layout
    config = family.image_processor_config(image_processor(folder), plan.spec, layout)
    ours = make_layout(plan.spec.layout_config(layout.stated), config)
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for size in SIZES:
        theirs = family.reference_pixels(processor, [picture(*size)], layout)
        cut = ours.cut(picture(*size)).pixel_values
        if preset == "tiny-internvl":  # which is asked to cut when it is called
            most = min(4, processor.max_patches)  # as many as an export allows by default
            with quiet_transformers():
                made = processor(
                    picture(*size), crop_to_patches=True, max_patches=most, return_tensors="np"
                )
            theirs = made["pixel_values"]
        assert cut.shape == theirs.shape
        assert np.abs(cut - theirs).max() < 1e-5 * max(1, np.abs(theirs).max())
    warned = [each for each in checkpoint.warnings if "preprocessor_config.json" in each]
    assert len(warned) == mixture.startswith("stale")
    for sentence in warned:
        assert sentence.startswith("processor_config.json (image_processor) and ")
        assert any(key in sentence for key in CHANGES[preset])


@pytest.mark.parametrize("splits", [True, False])
def test_prompts_equal_those_of_transformers_processor(copy, splits):
    folder = copy("tiny-idefics3")
    nest_pictures(folder, do_image_splitting=splits)
    edit_json(folder, "preprocessor_config.json", do_image_splitting=not splits)
    checkpoint = inspect_checkpoint(str(folder))
    layout = make_plan(checkpoint, ExportOptions("none")).layout
    counting = make_layout(checkpoint.spec.layout_config(layout.stated))
    with quiet_transformers():
        processor = AutoProcessor.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    content = [{"type": "image", "image": picture(90, 90)}, {"type": "text", "text": "what?"}]
    expected = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True
    )[0]
    ids = counting.expand(counting.grid(90, 90), checkpoint.spec.vision.tokens)
    prompter = Prompter(
        tokenizer.backend_tokenizer,
        ChatTemplate(chat_template(folder), {}),
        checkpoint.spec.image_token_id,
        None,
    )
    assert prompter.place(prompter.encode("what?", 1), [ids]).tolist() == list(expected)


CLIPS = {"image_mean": [0.1, 0.2, 0.3]}
NESTED, OWN, PICTURES = (
    "processor_config.json",
    "video_preprocessor_config.json",
    "preprocessor_config.json",
)


@pytest.mark.parametrize("places", [(), (OWN,), (NESTED,), (NESTED, OWN)], ids=str)
def test_clips_are_prepared_by_the_video_processor(copy, places):
    """As `BaseVideoProcessor` looks for it, whose classes want torchvision: the numpy class of the
    family has the same steps."""
    folder = copy("tiny-video-llava")
    stated = json.loads((folder / PICTURES).read_text())
    stated.pop("image_processor_type")
    means = {place: [0.1 * number, 0.2, 0.3] for number, place in enumerate((OWN, NESTED), 1)}
    for place in places:
        values = {**stated, "image_mean": means[place], "video_processor_type": "Video"}
        if place == NESTED:
            edit_json(folder, NESTED, video_processor=values)
        else:
            edit_json(folder, OWN, **values)
    checkpoint = inspect_checkpoint(str(folder))
    plan = make_plan(checkpoint, ExportOptions())
    config = checkpoint.family.image_processor_config(
        image_processor(folder, "video"), plan.spec, plan.layout
    )
    frames = [picture(60, 50 + number) for number in range(8)]
    ours = make_layout(plan.spec.layout_config(plan.layout.stated), config).cut(frames)
    mean = means[places[0]] if places else stated["image_mean"]
    processor = VideoLlavaImageProcessor(**{**stated, "image_mean": mean})
    theirs = checkpoint.family.reference_pixels(processor, frames, plan.layout)
    assert np.abs(ours.pixel_values - theirs.reshape(ours.pixel_values.shape)).max() < 1e-5
    warned = [each for each in checkpoint.warnings if OWN in each]
    assert len(warned) == (len(places) == 2)


TEMPLATES = {
    "processor_config.json": "one",
    "chat_template.json": "two",
    "chat_template.jinja": "three",
    "tokenizer_config.json": "four",
}


@pytest.mark.parametrize(
    "places", [each for n in range(5) for each in itertools.combinations(TEMPLATES, n)], ids=str
)
def test_the_chat_template_is_the_one_that_transformers_takes(tiny_checkpoint, tmp_path, places):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint / name, tmp_path / name)
    for place in places:
        if place.endswith(".jinja"):
            (tmp_path / place).write_text(TEMPLATES[place])
        else:
            edit_json(tmp_path, place, chat_template=TEMPLATES[place])
    with quiet_transformers():
        stated, _ = LlavaProcessor.get_processor_dict(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    expected = stated.get("chat_template") or tokenizer.chat_template
    if expected is None:
        with pytest.raises(CheckpointError, match="no chat template"):
            chat_template(tmp_path)
    else:
        assert chat_template(tmp_path) == expected


def test_templates_that_differ_are_named(copy):
    folder = copy("tiny-llama")
    template = (folder / "chat_template.jinja").read_text()
    edit_json(folder, "chat_template.json", chat_template=template)
    assert inspect_checkpoint(str(folder)).warnings == ()
    edit_json(folder, "chat_template.json", chat_template=template + " ")
    (line,) = inspect_checkpoint(str(folder)).warnings
    assert line.startswith("chat_template.json (chat_template) and chat_template.jinja differ")
    listed = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": template}]
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").unlink()
    edit_json(folder, "tokenizer_config.json", chat_template=listed)
    assert chat_template(folder) == template


@pytest.mark.parametrize(
    "stated",
    [
        {"generation_config.json": 5, "config.json": 6, "text_config": 7},
        {"generation_config.json": [5, 6], "config.json": 6, "text_config": 7},
        {"config.json": 6, "text_config": 7},
        {"text_config": 7},
    ],
    ids=str,
)
def test_the_end_of_an_answer_is_the_one_that_transformers_takes(copy, stated):
    folder = copy("tiny-llama")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = stated["text_config"]
    config["eos_token_id"] = stated.get("config.json")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    where = {"config_file_name": "config.json", "_from_model_config": True}
    if "generation_config.json" in stated:
        where = {}
        edit_json(folder, "generation_config.json", eos_token_id=stated["generation_config.json"])
    with quiet_transformers():
        expected = GenerationConfig.from_pretrained(folder, **where).eos_token_id
    assert first(folder, END_OF_ANSWER) == expected
    warned = [each for each in inspect_checkpoint(str(folder)).warnings if "end of" in each]
    assert len(warned) == (stated.get("generation_config.json") == 5)


def warnings(folder):
    return inspect_checkpoint(str(folder)).warnings


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-qwen2.5-vl"])
def test_special_tokens_that_differ_are_named_with_those_that_are_used(copy, preset):
    folder = copy(preset)
    older = {"eos_token": {"content": "<other>"}, "pad_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    taken = AutoTokenizer.from_pretrained(folder).eos_token
    (warning,) = [each for each in warnings(folder) if "special_tokens_map" in each]
    assert f"eos_token {taken!r}" in warning
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": None}))
    assert not [each for each in warnings(folder) if "special_tokens_map" in each]


def test_generation_settings_in_the_models_configuration_are_named(copy):
    folder = copy("tiny-llama")
    edit_json(folder, repetition_penalty=1.5, temperature=1.0, top_k=50, num_beams=1)
    (warning,) = warnings(folder)
    assert "generation_config.json and config.json differ in repetition_penalty" in warning
    taken = GenerationConfig.from_pretrained(folder).repetition_penalty
    assert taken in (None, 1.0)
    edit_json(folder, "generation_config.json", repetition_penalty=1.5)
    assert not warnings(folder)


def test_a_silent_generation_config_is_named(copy):
    folder = copy("tiny-llama")
    edit_json(folder, "generation_config.json", eos_token_id=None)
    (line,) = inspect_checkpoint(str(folder)).warnings
    assert line.startswith("generation_config.json names no eos_token_id; that of config.json")


def test_a_warning_is_part_of_the_plan(copy, tmp_path):
    folder = copy("tiny-llama")
    nest_pictures(folder, resample=2)
    plan = prepare(str(folder), tmp_path / "out", ExportOptions())
    assert [each for each in plan.warnings if "resample" in each] == list(plan.warnings) != []


def test_pinpoints_are_in_the_order_of_the_processor(copy):
    folder = copy("tiny-llava-next")
    listed = json.loads((folder / "config.json").read_text())["image_grid_pinpoints"]
    edit_pictures(folder, image_grid_pinpoints=listed[::-1])
    checkpoint = inspect_checkpoint(str(folder))
    plan = prepare(str(folder), folder.parent / "out", ExportOptions())
    assert plan.layout.stated["pinpoints"] == [
        size for size in listed[::-1] if size in plan.layout.stated["pinpoints"]
    ]
    assert "in two orders" in checkpoint.warnings[0]
    stated = json.loads((folder / "config.json").read_text())
    written = plan.spec.family.model_config(stated, plan.spec)
    assert written["image_grid_pinpoints"] == plan.layout.stated["pinpoints"]


@pytest.mark.parametrize(
    ("preset", "change", "counted"),
    [
        ("tiny-llama", {"num_additional_image_tokens": 0}, 35),
        ("tiny-llama", {"vision_feature_select_strategy": "full"}, 37),
        ("tiny-llava-next", {"patch_size": 14}, 9),
        ("tiny-smolvlm", {"image_seq_len": 64}, 64),
        ("tiny-internvl", {"image_seq_length": 256}, 256),
        ("tiny-llama", {"patch_size": None}, None),
    ],
    ids=str,
)
def test_a_processor_that_counts_other_tokens_is_named(copy, preset, change, counted):
    folder = copy(preset)
    edit_json(folder, "processor_config.json", **change)
    warnings = inspect_checkpoint(str(folder)).warnings
    assert [f"counts {counted} tokens" in each for each in warnings] == [True] * bool(counted)


@pytest.mark.parametrize(("frames", "said"), [(8, 0), (16, 1), (None, 0)])
def test_other_numbers_of_frames_are_named(copy, frames, said):
    folder = copy("tiny-video-llava")
    stated = json.loads((folder / PICTURES).read_text())
    edit_json(folder, OWN, **stated, do_sample_frames=True, num_frames=frames)
    warnings = inspect_checkpoint(str(folder)).warnings
    assert len(warnings) == said
    assert all("takes 16 frames" in each for each in warnings)


def test_an_image_token_that_the_processor_does_not_write(copy, tmp_path):
    folder = copy("tiny-llama")
    edit_json(folder, "tokenizer_config.json", extra_special_tokens={}, image_token=None)
    edit_json(folder, "processor_config.json", image_token="</s>")
    with pytest.raises(CheckpointError, match="writes '</s>' in a picture's place"):
        prepare(str(folder), tmp_path / "out", ExportOptions())


@pytest.mark.parametrize(
    ("preset", "old", "new", "named"),
    [
        ("tiny-internvl", "<img>", "<one>", {"start_image_token": "<one>"}),
        ("tiny-smolvlm", "<global-img>", "<all>", {"global_image_token": "<all>"}),
    ],
)
def test_marks_are_what_the_tokenizer_calls_them(copy, preset, old, new, named):
    folder = copy(preset)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(old, new))
    edit_json(folder, "tokenizer_config.json", **named)
    layout = inspect_checkpoint(str(folder)).spec.layouts["hf"]
    tokenizer = load_tokenizer(folder)
    expected = tokenizer(new, add_special_tokens=False)["input_ids"]
    stated = layout.stated.get("before") or layout.stated["marks"]["whole"]
    assert stated == expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_not_read(copy, tmp_path, name, kind):
    folder = copy("tiny-llama")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        prepare(str(folder), tmp_path / "out", ExportOptions())


@pytest.mark.parametrize("padding", ["max_length", True])
def test_a_tokenizer_that_was_saved_after_padding(copy, tmp_path, padding):
    folder = copy("tiny-llama")
    tokenizer = load_tokenizer(folder)
    tokenizer("a", padding=padding, truncation=True, max_length=64)
    tokenizer.save_pretrained(folder)
    stated = json.loads((folder / "tokenizer.json").read_text())
    assert stated["padding"] is not None
    assert stated["truncation"] is not None
    plan = prepare(str(folder), tmp_path / "out", ExportOptions())
    assert plan.warnings == ()
