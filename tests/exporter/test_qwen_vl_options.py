"""What can be asked of an export of Qwen2-VL and Qwen2.5-VL, and of its artifact: sizes of
pictures, precisions, commands; and what is refused."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification import verify_against
from support.qwen_vl import Theirs, noise, pixels_of, user

QUESTION = "what is in the picture?"
SAMPLING = Sampling(max_new_tokens=16)
TOKEN = 28**2  # pixels
OWN = 12845056  # max_pixels of the published processors
FIXED = (84, 140)


@pytest.fixture(scope="module")
def fixed(qwen25, tmp_path_factory):
    """Graphs of one shape; read only."""
    folder = tmp_path_factory.mktemp("qwen25") / "fixed"
    options = ExportOptions("divprune", budgets=(6,), caps=Caps(fixed_size=FIXED))
    export(str(qwen25), folder, options)
    return folder


def invoke(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def planned(checkpoint, *arguments):
    """What ``--dry-run --json`` says."""
    done = invoke("export", checkpoint, "-o", "/nowhere/out", "--dry-run", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_without_a_flag_it_is_divprune_on_pictures_of_512_tokens(qwen2, qwen2_by_default):
    manifest = Artifact.open(qwen2_by_default).manifest
    assert (manifest.pruning.method, manifest.pruning.budgets) == ("divprune", (128,))
    assert manifest.pruning.tokens_before == 512
    assert manifest.vision.image_size is None
    assert manifest.vision.caps == {"max_pixels": 512 * TOKEN}
    stated = json.loads((qwen2_by_default / "preprocessor_config.json").read_text())
    assert stated["size"] == {"shortest_edge": 3136, "longest_edge": 401408}
    assert "max_pixels" not in stated
    plan = planned(qwen2)
    assert (plan["pruner"], plan["budgets"]) == ("divprune", [128])
    assert plan["caps"] == {"max_pixels": 401408}
    assert not plan["warnings"]


def test_what_the_published_files_say_is_kept(qwen25, qwen25_pruned):
    """A flat config.json with rope_scaling of the type mrope, a template in JSON, two tokens that
    end an answer."""
    config = json.loads((qwen25 / "config.json").read_text())
    assert config["rope_scaling"]["type"] == "mrope"
    assert "text_config" not in config
    template = json.loads((qwen25 / "chat_template.json").read_text())["chat_template"]
    assert (qwen25_pruned / "chat_template.jinja").read_text() == template
    decoder = Artifact.open(qwen25_pruned).manifest.decoder
    stated = json.loads((qwen25 / "generation_config.json").read_text())
    assert list(decoder.eos_token_ids) == stated["eos_token_id"]
    assert len(decoder.eos_token_ids) == 2
    assert decoder.positions == "mrope"


@pytest.mark.parametrize("name", ["qwen2", "qwen25"])
def test_files_as_transformers_writes_them_now_are_the_same_checkpoint(request, name, tmp_path):
    source = request.getfixturevalue(name)
    with quiet_transformers():
        AutoModelForImageTextToText.from_pretrained(source).save_pretrained(tmp_path)
    for file in source.iterdir():
        if not (tmp_path / file.name).exists():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    assert "rope_scaling" not in config
    assert config["text_config"]["rope_parameters"]["mrope_section"] == [2, 3, 3]
    assert planned(tmp_path) == planned(source)


def test_pixels_are_those_of_transformers_processor(qwen2, qwen2_by_default):
    """That of the artifact's files, for pictures of any size, and the checkpoint's own where these
    are small enough."""
    viewer = VLM.load(qwen2_by_default).parts.viewer
    with quiet_transformers():
        capped, own = (
            AutoImageProcessor.from_pretrained(folder, backend="pil")
            for folder in (qwen2_by_default, qwen2)
        )
    random = np.random.default_rng(3)
    for width, height in [(1, 1), (3, 200), (150, 90), (333, 500), (1400, 610), (5, 900)]:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        (prepared,) = viewer.prepare([image], 1)
        theirs = pixels_of(capped(images=[image], return_tensors="np"))
        np.testing.assert_array_equal(prepared.pixel_values, theirs)
        if width * height <= 333 * 500:
            theirs = pixels_of(own(images=[image], return_tensors="np"))
            np.testing.assert_array_equal(prepared.pixel_values, theirs)
        else:
            assert prepared.tokens_before <= 512


def test_one_pixel_is_a_picture(qwen25, qwen25_pruned):
    image = Image.new("RGB", (1, 1), (200, 10, 30))
    answer = VLM.load(qwen25_pruned).generate(QUESTION, [image], sampling=SAMPLING)
    assert answer.visual_tokens == {"before": 4, "after": 4}
    theirs = Theirs(qwen25, qwen25_pruned)
    assert answer.token_ids == theirs.generate(theirs.read(user(image, QUESTION)))


def test_smaller_pictures_when_it_answers(qwen25_pruned, tmp_path):
    image, most = noise(6, 8), 20 * TOKEN
    image.save(tmp_path / "picture.png")
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(
            qwen25_pruned, backend="pil", size={"shortest_edge": 3136, "longest_edge": most}
        )
    vlm = VLM.load(qwen25_pruned, max_pixels=most)
    (prepared,) = vlm.parts.viewer.prepare([image], 6)
    theirs = pixels_of(processor(images=[image], return_tensors="np"))
    np.testing.assert_array_equal(prepared.pixel_values, theirs)
    assert prepared.tokens_before < 20 < 6 * 8
    asked = ["run", qwen25_pruned, "--image", tmp_path / "picture.png", "--prompt", QUESTION]
    printed = json.loads(invoke(*asked, "--json", "--max-pixels", most).stdout)
    assert printed["visual_tokens"] == {"before": prepared.tokens_before, "after": 6}
    answer = vlm.generate(QUESTION, [image])
    assert printed["token_ids"] == answer.token_ids
    assert printed["kept_indices"] == answer.kept_indices
    assert json.loads(invoke(*asked, "--json").stdout)["visual_tokens"]["before"] == 48
    refused = invoke(*asked, "--max-pixels", 48 * TOKEN + 1)
    assert refused.exit_code == 1
    assert "max_pixels 37633: expected 784..37632" in refused.stderr


@pytest.mark.parametrize("most", [TOKEN, 48 * TOKEN, 1000 * TOKEN, OWN])
def test_an_export_caps_what_the_checkpoint_allows(qwen2, most):
    plan = planned(qwen2, "--max-pixels", most, "--context", 1024, "--budget", 1)
    assert plan["caps"] == {"max_pixels": most}
    assert plan["totals"] == {"1": {"1x1": 1}}


def test_graphs_of_one_shape(qwen25, fixed):
    vlm, theirs = VLM.load(fixed), Theirs(qwen25, fixed)
    graph = onnx.load(fixed / "onnx" / "vision_encoder.onnx", load_external_data=False).graph
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim[1:]] == [3, *FIXED]
    for image in (noise(3, 5), noise(9, 2), Image.new("RGB", (1, 700), "teal")):
        (prepared,) = vlm.parts.viewer.prepare([image], 6)
        assert prepared.pixel_values.shape == (1, 3, *FIXED)
        answer = vlm.generate(QUESTION, [image], sampling=SAMPLING)
        assert answer.visual_tokens == {"before": 15, "after": 6}
        resized = image.resize((FIXED[1], FIXED[0]), Image.Resampling.BICUBIC)
        inputs = theirs.read(user(resized, QUESTION))
        np.testing.assert_array_equal(prepared.pixel_values, pixels_of(inputs))
        assert answer.token_ids == theirs.masked(inputs, answer.kept_indices)[0]
    with pytest.raises(PocketVLMError, match="fixed size"):
        VLM.load(fixed, max_pixels=TOKEN)


def test_an_artifact_is_still_its_checkpoint(qwen2, qwen25, qwen2_by_default, fixed):
    for folder, checkpoint in ((fixed, qwen25), (qwen2_by_default, qwen2)):
        parity = verify_against(folder, str(checkpoint))
        assert parity["passed"]
        assert parity["pixels"]["max_abs"] == 0
    assert invoke("verify", fixed).exit_code == 0


def test_every_precision_passed_the_gate(qwen25_pruned):
    parity = Artifact.open(qwen25_pruned).manifest.parity
    assert parity.passed
    assert set(parity.by_precision) == {"int8", "int4", "f32", "q8_0"}
    assert {"vision", "decoder"} <= set(parity.by_precision["int8"])
    assert parity.by_precision["f32"]["greedy_equal"] == 16
    for vision, decoder in (("int8", "int8"), ("int8", "int8+int4"), ("fp32", "int4")):
        vlm = VLM.load(qwen25_pruned, vision_precision=vision, decoder_precision=decoder)
        answer = vlm.generate(QUESTION, [noise(5, 7)], sampling=SAMPLING)
        assert answer.visual_tokens == {"before": 35, "after": 6}


REFUSED = [
    (["--max-pixels", OWN + 1], f"--max-pixels {OWN + 1} is outside 784..{OWN}"),
    (["--max-pixels", TOKEN - 1], "--max-pixels 783 is outside 784.."),
    (["--budget", 513], "budget 513 is outside 1..512"),
    (["--budget", 49, "--max-pixels", 48 * TOKEN], "budget 49 is outside 1..48"),
    (["--budget", 16, "--fixed-size", "84x140"], "budget 16 is outside 1..15"),
    (["--fixed-size", "84x150"], "expected multiples of 28 pixels; give 84x140"),
    (["--fixed-size", "84x140", "--max-pixels", TOKEN], "give one of them"),
    (["--max-tiles", 2], "--max-tiles"),
    (["--pruner", "fastervlm"], "no [CLS] token that fastervlm could rank patches by"),
    (["--pruner", "vtc-cls"], "no [CLS] token"),
    (["--pruner", "uniform"], "uniform needs pictures of one size"),
    (["--decoder-stage", "1:4"], "is not proven on decoders that number"),
]


@pytest.mark.parametrize(
    ("arguments", "line"), REFUSED, ids=[" ".join(map(str, given)) for given, _ in REFUSED]
)
@pytest.mark.parametrize("name", ["qwen2", "qwen25"])
def test_what_an_export_refuses_in_one_line(request, name, arguments, line, tmp_path):
    checkpoint = request.getfixturevalue(name)
    done = invoke("export", checkpoint, "-o", tmp_path / "out", *arguments)
    assert done.exit_code == 1
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_clips_and_narrow_pictures_are_refused(qwen25_pruned, tmp_path):
    vlm = VLM.load(qwen25_pruned)
    frames = [noise(4, 4)] * 4
    with pytest.raises(PocketVLMError, match="questions about pictures, not clips"):
        vlm.generate(QUESTION, videos=[frames])
    (tmp_path / "clip.mp4").write_bytes(b"\0")
    asked = ["run", qwen25_pruned, "--prompt", QUESTION]
    done = invoke(*asked, "--video", tmp_path / "clip.mp4")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "questions about pictures, not clips" in done.stderr
    for size in ((1, 201), (2010, 10)):
        with pytest.raises(PocketVLMError, match="too narrow"):
            vlm.generate(QUESTION, [Image.new("RGB", size)])
    with pytest.raises(PocketVLMError, match="budget 7 is not served"):
        vlm.generate(QUESTION, [noise(2, 2)], budget=7)


@pytest.mark.parametrize("size", [(2, 9), (7, 3)])
def test_the_overlay_shows_what_was_kept_of_a_picture_that_is_not_square(
    qwen25_pruned, tmp_path, size
):
    file, sheet = tmp_path / "picture.png", tmp_path / "kept.png"
    noise(*size).save(file)
    drawn = invoke("inspect", qwen25_pruned, "--image", file, "--overlay", sheet, "--json")
    asked = invoke("run", qwen25_pruned, "--image", file, "--prompt", QUESTION, "--json")
    kept = json.loads(asked.stdout)["kept_indices"]
    assert [json.loads(drawn.stdout)["kept_indices"]] == kept
    drawing = Image.open(sheet)
    assert drawing.width * size[0] == drawing.height * size[1]


def test_features_of_several_sizes_are_kept_in_a_folder(qwen25_pruned, tmp_path, monkeypatch):
    images = [noise(4, 8), noise(8, 4), noise(5, 7), noise(2, 2)]
    answers = []
    for _ in range(2):
        vlm = VLM.load(qwen25_pruned, feature_cache=tmp_path)
        answers.append([vlm.generate(QUESTION, [image], sampling=SAMPLING) for image in images])
        monkeypatch.setattr(type(vlm.parts.viewer.encoder), "encode", None)  # no further one
    for first, second in zip(*answers, strict=True):
        assert first.token_ids == second.token_ids
        assert first.kept_indices == second.kept_indices
        assert first.visual_tokens == second.visual_tokens
