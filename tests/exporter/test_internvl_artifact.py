"""What an InternVL artifact lets its user do: exported without a flag, with other caps, asked by
every command; and the checkpoints that are refused."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from transformers import AutoImageProcessor

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.errors import RequestError
from pocketvlm.layouts import open_layout
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.pipeline import prepare
from pocketvlm_export.quiet import quiet_transformers
from support.internvl import N, Theirs, numbered
from support.noise import picture

QUESTION = "what is in the picture?"
WIDE = (150, 70)  # 1 x 2 parts and the whole under the default cap


@pytest.fixture(scope="module")
def checkpoint(make_tiny):
    return make_tiny("tiny-internvl")


def pocketvlm(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """(artifact, what the command printed) of an export without any flag; read only."""
    folder = tmp_path_factory.mktemp("internvl") / "out"
    result = pocketvlm("export", checkpoint, "-o", folder)
    assert result.exit_code == 0, result.stderr
    return folder, result


@pytest.fixture(scope="module")
def artifact(exported):
    return exported[0]


@pytest.fixture
def file(tmp_path):
    picture(*WIDE).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_without_a_flag_it_is_scope_and_four_tiles(exported, checkpoint):
    folder, result = exported
    assert "Warning" not in result.stderr
    manifest = Artifact.open(folder).manifest
    assert (manifest.pruning.method, manifest.pruning.budgets) == ("scope", (4,))
    assert manifest.pruning.options["weight"] == "received"
    assert manifest.vision.caps == {"max_tiles": 4}
    assert manifest.vision.totals["4"] == {
        "1x1": 4,
        **dict.fromkeys(("1x2", "2x1"), 12),
        **dict.fromkeys(("1x3", "3x1"), 16),
        **dict.fromkeys(("1x4", "2x2", "4x1"), 20),
    }
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    assert stated["max_patches"] == 4
    assert stated["crop_to_patches"] is True
    own = json.loads((checkpoint / "preprocessor_config.json").read_text())
    assert own["max_patches"] == 6  # the source is never touched
    assert own["crop_to_patches"] is False


@pytest.mark.parametrize("size", [WIDE, (60, 60), (100, 300)])
def test_it_answers_as_transformers_given_what_scope_keeps(checkpoint, artifact, size):
    theirs, images = Theirs(checkpoint, max_tiles=4), [picture(*size)]
    pruning = Artifact.open(artifact).manifest.pruning
    inputs = theirs.prepare("is <image> blue?", images, pruning.default_budget)
    kept = [theirs.kept_by_oracle(pruning, tile) for tile in inputs["pixel_values"]]
    answer = VLM.load(artifact).generate(
        "is <image> blue?", images, sampling=Sampling(max_new_tokens=16)
    )
    assert answer.kept_indices == [numbered(kept)]
    assert answer.token_ids == theirs.answer_kept(inputs, kept)[0]
    assert answer.prompt_tokens["total"] == inputs["input_ids"].shape[1]
    assert answer.visual_tokens == {"before": N * len(kept), "after": 4 * len(kept)}


@pytest.mark.parametrize("size", [(60, 50), (56, 112), (300, 80), (1000, 999), (3, 400)])
def test_pixels_equal_those_of_the_processor_beside_it(artifact, size):
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(artifact, backend="pil")
    expected = processor(picture(*size), return_tensors="np")["pixel_values"]
    ours = open_layout(Artifact.open(artifact)).cut(picture(*size)).pixel_values
    np.testing.assert_array_equal(ours, expected)


def test_it_is_verified_under_its_cap(artifact, checkpoint):
    result = pocketvlm("verify", artifact, "--against", checkpoint, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["against"]["vision"]["kept_equal"]


@pytest.mark.parametrize("tiles", [6, 1])
def test_another_cap(checkpoint, tmp_path, tiles):
    command = ["export", checkpoint, "-o", tmp_path / "out", "--max-tiles", tiles]
    result = pocketvlm(*command, "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["caps"] == {"max_tiles": tiles}
    assert plan["warnings"] == []
    assert max(plan["totals"]["4"].values()) == 4 * (tiles + (tiles > 1))
    assert not (tmp_path / "out").exists()


def test_pictures_are_not_cut_where_a_tile_is_all(checkpoint, tmp_path):
    folder = tmp_path / "out"
    options = ExportOptions(
        "uniform", budgets=(6,), caps=Caps(max_tiles=1), decoder_precisions=("int8",)
    )
    export(str(checkpoint), folder, options)
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    assert (stated["max_patches"], stated["crop_to_patches"]) == (1, True)
    answer = VLM.load(folder).generate(QUESTION, [picture(*WIDE)])
    assert answer.visual_tokens == {"before": N, "after": 6}
    using = json.loads((folder / "using.json").read_text())
    assert [note.partition(",")[0] for note in using["notes"]] == [
        "Activations are measured in each run"
    ]
    expected = Theirs(checkpoint, max_tiles=1).prepare(
        using["prompt"]["question"], [picture(*WIDE)], 1
    )
    assert using["prompt"]["ids"] == expected["input_ids"][0].tolist()


def test_no_sequence_is_longer_than_those_it_was_trained_on(checkpoint, tmp_path):
    """Beyond them its frequencies would change."""
    stated = json.loads((checkpoint / "config.json").read_text())["text_config"]
    assert stated["rope_scaling"]["rope_type"] == "dynamic"
    command = ["export", checkpoint, "-o", tmp_path / "out", "--context", 9999]
    plan = json.loads(pocketvlm(*command, "--dry-run", "--json").stdout)
    assert plan["context"] == stated["max_position_embeddings"] == 1024


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-tiles", 7], "--max-tiles 7 is outside 1..6, which this checkpoint was trained"),
        (["--max-tiles", 12], "give at most 6"),
        (["--max-tiles", 0], "--max-tiles is 0: expected at least 1"),
        (["--max-pixels", 100352], "--max-pixels 100352 does not apply to internvl checkpoints"),
        (["--fixed-size", "56x56"], "give --max-tiles"),
        (["--layout", "anyres"], "layout 'anyres' is unknown to internvl checkpoints"),
        (["--budget", 17], "budget 17 is outside 1..16"),
        (["--context", 80], "context 80 does not hold a picture of 22 tokens"),
    ],
)
def test_requests_that_make_no_sense_are_refused_in_words(checkpoint, tmp_path, flags, words):
    result = pocketvlm("export", checkpoint, "-o", tmp_path / "out", *flags)
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_fewer_tiles_may_be_asked_for_when_it_runs(checkpoint, artifact, file):
    vlm, image = VLM.load(artifact, max_tiles=1), [picture(*WIDE)]
    answer = vlm.generate(QUESTION, image, sampling=Sampling(max_new_tokens=6))
    theirs = Theirs(checkpoint, max_tiles=1)
    inputs = theirs.prepare(QUESTION, image, 4)
    assert inputs["pixel_values"].shape[0] == 1
    kept = [np.array(each) for each in answer.kept_indices]
    assert answer.token_ids == theirs.answer_kept(inputs, kept, 6)[0]
    run = ["run", artifact, "--image", file, "--prompt", QUESTION, "--json"]
    capped = pocketvlm(*run, "--max-tiles", 1, "--max-new-tokens", 6)
    assert json.loads(capped.stdout)["token_ids"] == answer.token_ids
    assert json.loads(pocketvlm(*run, "--max-new-tokens", 2).stdout)["visual_tokens"] == {
        "before": 3 * N,
        "after": 12,
    }
    with pytest.raises(RequestError, match=r"max_tiles 5: expected 1\.\.4"):
        VLM.load(artifact, max_tiles=5)
    assert pocketvlm(*run, "--max-tiles", 5).exit_code == 1
    assert "max_pixels is nothing that" in pocketvlm(*run, "--max-pixels", 5000).stderr


def test_a_second_question_reads_on_from_the_cache(artifact, tmp_path, monkeypatch):
    few = Sampling(max_new_tokens=4)
    chat = VLM.load(artifact, feature_cache=tmp_path / "features").chat()
    first = chat.ask("what?", [picture(*WIDE)], sampling=few)
    second = chat.ask("and <image>?", [picture(60, 60)], sampling=few)
    assert second.prompt_tokens["cached"] >= first.prompt_tokens["total"]
    assert second.tokens_per_picture[-1] == 4
    # Features are found by what a picture holds, in another process too.
    again = VLM.load(artifact, feature_cache=tmp_path / "features")
    monkeypatch.setattr(VisionEncoder, "encode", None)
    repeated = again.generate("what?", [picture(*WIDE)], sampling=few)
    assert repeated.token_ids == first.token_ids


def test_commands_work_on_it(artifact, file, tmp_path):
    drawn = ["inspect", artifact, "--image", file, "--overlay", tmp_path / "kept.png"]
    assert "12 patches kept" in pocketvlm(*drawn).stdout
    sheet = Image.open(tmp_path / "kept.png")
    assert sheet.width > 2.5 * sheet.height  # two parts beside the whole
    assert "4 patches kept" in pocketvlm(*drawn, "--max-tiles", 1).stdout
    profile = ["profile", artifact, "--budget", "4,2", "--repeat", 1, "--warmup", 0]
    result = pocketvlm(*profile, "--max-tiles", 2, "-o", tmp_path / "p.jsonl")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert {row["max_tiles"] for row in rows} == {2}
    assert pocketvlm("inspect", artifact, "--json").exit_code == 0


def test_clips_are_refused_in_words(artifact):
    vlm = VLM.load(artifact)
    with pytest.raises(RequestError, match="answers questions about pictures, not clips"):
        vlm.generate("what?", videos=["clip.mp4"])
    with pytest.raises(RequestError, match="<IMG_CONTEXT>"):
        vlm.generate("is <IMG_CONTEXT> a picture?")


def test_the_pages_beside_it_say_how_tiles_are_joined(artifact):
    using = (artifact / "USING.md").read_text()
    assert "tile after tile with nothing between" in using
    assert (
        "the rows of all in the picture's place, those of one tile after those of another" in using
    )
    assert "other ids come between" not in using
    assert "20 (2x2)" in (artifact / "README.md").read_text()


def with_json(folder, file, **changes):
    path = folder / file
    stated = json.loads(path.read_text())
    for key, value in changes.items():
        stated[key] = {**stated[key], **value} if isinstance(stated.get(key), dict) else value
    path.write_text(json.dumps(stated))


def in_config(**changes):
    return lambda folder: with_json(folder, "config.json", **changes)


def in_pictures(**changes):
    return lambda folder: with_json(folder, "preprocessor_config.json", **changes)


def without_marks(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        text = text.replace("<img>", "<one>").replace("start_image_token", "start_token")
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_marks, "has no tokens <img> and </img>"),
        (in_config(vision_feature_layer=[-2, -1]), "lists several layers"),
        (in_config(vision_feature_layer=7), "names no layer of a tower with 3"),
        (
            in_config(vision_feature_layer=-2, vision_config={"use_mean_pooling": False}),
            "before the norm behind",
        ),
        (in_config(vision_feature_select_strategy="full"), "feeds \\[CLS\\] to the decoder"),
        (in_config(downsample_ratio=0.3), "downsample_ratio 0.3 do not make whole"),
        (in_config(downsample_ratio=0.4), "downsample_ratio 0.4 do not make whole"),
        (in_config(downsample_ratio=0.0), "downsample_ratio 0.0 do not make whole"),
        (in_config(downsample_ratio=2.0), "downsample_ratio 2.0 do not make whole"),
        (in_config(vision_config={"image_size": [63, 63]}), "do not make whole"),
        (in_config(vision_config={"image_size": [56, 112]}), "do not make whole"),
        (in_config(text_config={"model_type": "gpt2"}), "'gpt2', which is not supported"),
        (in_pictures(image_processor_type="CLIPImageProcessor"), "CLIPImageProcessor"),
        (in_pictures(size={"height": 84, "width": 84}), "makes tiles of"),
        (in_pictures(do_resize=False), "do_resize"),
        (in_pictures(max_patches=0), "into 1 to 0 tiles"),
        (in_pictures(max_patches="many"), "into 1 to 'many' tiles"),
        (in_pictures(min_patches=9), "into 9 to 6 tiles"),
    ],
)
def test_checkpoints_that_are_refused(checkpoint, tmp_path, damage, words):
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(PocketVLMError, match=words) as caught:
        prepare(str(folder), tmp_path / "out", ExportOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [("max_patches",), ("min_patches", "max_patches")])
def test_limits_that_are_not_stated_are_the_processors_own(checkpoint, tmp_path, names):
    folder = shutil.copytree(checkpoint, tmp_path / "silent")
    in_pictures(**dict.fromkeys(names))(folder)
    (layout,) = inspect_checkpoint(str(folder)).spec.layouts.values()
    assert (layout.stated["min_tiles"], layout.stated["max_tiles"]) == (1, 12)
    prepare(str(folder), tmp_path / "out", ExportOptions(caps=Caps(max_tiles=12)))
