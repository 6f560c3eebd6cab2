"""The Kotlin client, compiled against stubs and run: its pictures against Pillow and this runtime,
its answers against this runtime's. `make kotlin` fetches the compiler, and asks the demo."""

import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from kotlin import compiler
from kotlin.client import Kotlin, Refused
from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.layouts import LayoutConfig, make_layout
from pocketvlm_export.packaging.client_layouts import layout_facts, picture_steps, token_grid
from pocketvlm_export.packaging.using import write_using
from support.noise import picture as noise
from support.self_tests import give_self_test
from support.tiny_artifact import (
    make_dynamic,
    make_thumbnails,
    read_manifest,
    write_artifact,
    write_manifest,
)
from support.tiny_graphs import IMAGE, PATCHES

pytestmark = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))

FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
BUDGET, STEPS, SLOT = 6, 8, 3
sides = st.integers(1, 90)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with Kotlin(tmp_path_factory.mktemp("kotlin")) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    write_artifact(folder, budgets=(BUDGET, 12))
    give_self_test(folder)
    write_using(Artifact.open(folder, check="sizes"))
    write_manifest(folder, read_manifest(folder))
    return folder


@pytest.fixture(scope="module")
def vlm(folder):
    return VLM.load(folder)


@pytest.fixture
def loaded(client, folder):
    """The client with the artifact opened; what it opened is closed again."""
    client.load(folder)
    yield client
    assert client.ask("close")["open"] == 0


def tokens_of(answer):
    return list(answer.token_ids)


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(sides, sides), to=st.tuples(sides, sides), resample=st.sampled_from(FILTERS))
@example(size=(300, 7), to=(3, 200), resample="bicubic")
@example(size=(641, 480), to=(96, 96), resample="bicubic")
@example(size=(400, 300), to=(40, 30), resample="lanczos")
@example(size=(31, 17), to=(310, 170), resample="bilinear")
def test_pictures_are_resized_bit_for_bit_as_by_pillow(client, size, to, resample):
    image = noise(*size)
    expected = np.asarray(image.resize(to, Image.Resampling[resample.upper()]))
    np.testing.assert_array_equal(client.resized(image, to, resample), expected)


@pytest.mark.parametrize("orientation", range(1, 10))
def test_pictures_are_upright_and_on_white(client, orientation):
    pixels = np.random.default_rng(orientation).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    pixels[0, :2, 3] = 0, 255
    rgba = Image.fromarray(pixels)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    expected = Image.alpha_composite(white, rgba).convert("RGB")
    expected.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(expected))
    np.testing.assert_array_equal(client.from_argb(pixels, orientation), expected)


PARTS = [[[100 + 10 * row + column] for column in range(5)] for row in range(5)]
MARKS = {"around": [90], "whole": [91, 92], "row_end": [93], "last_row_end": [94]}
NORMAL = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.26, 0.27, 0.28]}
CLIP = {"image_processor_type": "CLIPImageProcessor", **NORMAL}
QWEN = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2}
GOT = {"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 56, "width": 56}}
IDEFICS = {"image_processor_type": "Idefics3ImageProcessor", "max_image_size": {"longest_edge": 28}}
LFM2 = {
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "encoder_patch_size": 16,
    "downsample_factor": 2,
    "min_image_tokens": 4,
    "max_image_tokens": 16,
    "tile_size": 128,
    "min_tiles": 2,
    "max_tiles": 5,
}
THUMBNAIL = {
    "name": "tiles-and-thumbnail",
    "factor": 32,
    "min_pixels": 4 * 1024,
    "max_pixels": 16 * 1024,
    "tile": 128,
    "min_tiles": 2,
    "max_tiles": 5,
    "cut_above": 32 * 1024,
    "patch": 16,
    "thumbnail": True,
    "before": [7],
    "after": [8, 9],
    "whole": [10],
    "parts": PARTS,
}
LAYOUTS = {
    "cropped": (
        (56, 56),
        16,
        {"name": "single"},
        {**CLIP, "size": {"shortest_edge": 60}, "crop_size": 56},
    ),
    "padded": (
        (56, 56),
        16,
        {"name": "single"},
        {
            **CLIP,
            "image_processor_type": "LlavaImageProcessor",
            "do_pad": True,
            "size": {"height": 56, "width": 56},
            "do_center_crop": False,
        },
    ),
    "crop larger than the picture": (
        (64, 64),
        16,
        {"name": "single"},
        {**CLIP, "size": {"shortest_edge": 40}, "crop_size": 64},
    ),
    "any size": (
        None,
        60,
        {"name": "smart-resize", "factor": 28, "min_pixels": 3136, "max_pixels": 60 * 784},
        {**QWEN, "size": {"shortest_edge": 3136, "longest_edge": 60 * 784}},
    ),
    "fixed size": (
        (56, 84),
        6,
        {"name": "smart-resize", "factor": 28, "size": [56, 84]},
        {**QWEN, "size": {"shortest_edge": 3136, "longest_edge": 60 * 784}},
    ),
    "any size, marked": (
        None,
        256,
        {
            "name": "marked-resize",
            "factor": 32,
            "min_pixels": 64 * 1024,
            "max_pixels": 256 * 1024,
            "before": [7],
            "after": [8, 9],
        },
        {"image_processor_type": "Lfm2VlImageProcessorFast"},
    ),
    "tiles and thumbnail": (None, 256, THUMBNAIL, LFM2),
    "tiles": (
        (56, 56),
        16,
        {"name": "tiles", "min_tiles": 1, "max_tiles": 6, "before": [8, 9], "after": [5]},
        {**GOT, "max_patches": 6},
    ),
    "parts": (
        (28, 28),
        4,
        {
            "name": "idefics3",
            "longest_edge": 77,
            "splits": True,
            "resizes": True,
            "marks": MARKS,
            "parts": PARTS,
        },
        {**IDEFICS, "size": {"longest_edge": 77}, "do_image_splitting": True},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=8, deadline=None)
@given(size=st.tuples(st.integers(8, 300), st.integers(8, 300)))
@example(size=(300, 299))
@example(size=(57, 58))
def test_pixels_and_slots_equal_the_runtimes(client, folder, tmp_path_factory, name, size):
    tile, patches, options, processor = LAYOUTS[name]
    layout = make_layout(LayoutConfig(tile, patches, SLOT, options), processor)
    image = noise(*size)
    tiles = layout.cut(image)
    made = tmp_path_factory.mktemp("layout")
    stated = json.loads((folder / "using.json").read_text())
    stated |= {"layout": layout_facts(layout), "picture": picture_steps(layout)}
    stated |= {"grid": token_grid(layout), "image_token_id": SLOT}
    (made / "using.json").write_text(json.dumps(stated))
    pixels, more = client.cut(made, image)
    expected = [tile for batch in tiles.batches for tile in batch]
    for ours, theirs in zip(pixels, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    grids = [(layout.token_grid(each), each.tiles) for each in tiles.grid.batches]
    assert more["tokens"] == [[grid.rows, grid.columns] for grid, n in grids for _ in range(n)]
    assert more["slots"] == layout.expand(tiles.grid, 2).tolist()
    x, y, width, height = more["areas"][0]  # of the first token of the first tile
    assert width > 0
    assert height > 0
    assert x < size[0]
    assert y < size[1]


def test_areas_are_of_the_picture_that_was_given(client, folder):
    """The tiny model resizes along the shorter edge and cuts the middle out."""
    client.load(folder)
    seen = client.see(noise(2 * IMAGE, IMAGE))
    answer = client.ask("kept", seen=seen)
    assert client.ask("close")["open"] == 0
    grid = math.isqrt(PATCHES)
    edge = IMAGE / grid
    for index, (x, y, width, height) in zip(answer["kept"][0], answer["areas"], strict=True):
        assert (width, height) == (edge, edge)
        assert (x, y) == (IMAGE / 2 + index % grid * edge, index // grid * edge)


@pytest.mark.parametrize("budget", range(1, BUDGET + 1))
@pytest.mark.parametrize("flat", [False, True], ids=["noise", "equal scores"])
def test_any_smaller_budget_keeps_what_the_runtime_keeps(loaded, vlm, budget, flat):
    image = Image.new("RGB", (IMAGE, IMAGE), (9, 9, 9)) if flat else noise(40, 50)
    seen = loaded.see(image)
    sampling = Sampling(max_new_tokens=STEPS)
    expected = vlm.generate("what?", [image], budget=budget, sampling=sampling)
    assert loaded.ask("kept", seen=seen, budget=budget)["kept"] == expected.kept_indices
    answer = loaded.answer("what?", seen, budget=budget, most=STEPS)
    assert answer["token_ids"] == tokens_of(expected)
    assert "".join(answer["pieces"]) == answer["text"] == expected.text


def test_a_further_graph_answers_for_a_larger_budget(client, folder, vlm):
    image = noise(60, 40)
    client.load(folder, budget=12, test=True)
    seen = client.see(image)
    expected = vlm_of(folder, 12).generate("what?", [image], sampling=Sampling(max_new_tokens=4))
    assert client.answer("what?", seen, most=4)["token_ids"] == tokens_of(expected)
    assert client.ask("close")["open"] == 0


def vlm_of(folder, budget):
    return VLM.load(folder, budget=budget)


PROCESSORS = {
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [5, 9],
    "begin_suppress_tokens": [1, 17],
    "bad_words_ids": [[20], [30, 31], [1]],
    "min_new_tokens": 12,
}


@pytest.mark.parametrize("names", [[name] for name in PROCESSORS] + [list(PROCESSORS)])
def test_the_checkpoints_processors_are_applied(client, folder, vlm, tmp_path, names):
    other = shutil.copytree(folder, tmp_path / "other")
    data = read_manifest(other)
    data["generation"] = {"processors": {name: PROCESSORS[name] for name in names}}
    write_manifest(other, data)
    stated = json.loads((other / "using.json").read_text())
    stated["generation"]["processors"] = data["generation"]["processors"]
    (other / "using.json").write_text(json.dumps(stated))
    write_manifest(other, read_manifest(other))
    client.load(other)
    image = noise(50, 50)
    sampling = Sampling(max_new_tokens=20)
    expected = VLM.load(other).generate("what?", [image], sampling=sampling)
    if len(names) > 1:
        assert tokens_of(expected) != tokens_of(vlm.generate("what?", [image], sampling=sampling))
    answer = client.answer("what?", client.see(image), most=20)
    assert answer["token_ids"] == tokens_of(expected)
    assert client.ask("close")["open"] == 0


def test_pictures_of_any_size_answer_as_by_the_runtime(client, tmp_path):
    folder = tmp_path / "dynamic"
    make_dynamic(folder, write_artifact(folder), BUDGET, 16)
    write_using(Artifact.open(folder, check="sizes"))
    write_manifest(folder, read_manifest(folder))
    vlm = VLM.load(folder)
    client.load(folder)
    for size in ((60, 30), (12, 40), (16, 16)):
        image = noise(*size)
        expected = vlm.generate("what?", [image], sampling=Sampling(max_new_tokens=STEPS))
        answer = client.answer("what?", client.see(image), most=STEPS)
        assert answer["token_ids"] == tokens_of(expected)
    assert client.ask("close")["open"] == 0


def test_a_picture_in_tiles_of_two_sizes_answers_as_by_the_runtime(client, tmp_path):
    folder = tmp_path / "thumbnails"
    make_thumbnails(folder, write_artifact(folder, budgets=(BUDGET,)), BUDGET)
    give_self_test(folder)
    write_using(Artifact.open(folder, check="sizes"))
    write_manifest(folder, read_manifest(folder))
    vlm = VLM.load(folder)
    client.load(folder, test=True)
    for size in ((60, 30), (12, 40), (16, 16)):
        image = noise(*size)
        seen = client.see(image)
        for budget in (BUDGET, 2):
            sampling = Sampling(max_new_tokens=STEPS)
            expected = vlm.generate("what?", [image], budget=budget, sampling=sampling)
            answer = client.answer("what?", seen, budget=budget, most=STEPS)
            assert answer["token_ids"] == tokens_of(expected)
            assert answer["prompt_tokens"] == expected.prompt_tokens["total"]
    with pytest.raises(Refused, match="does not pass"):
        client.load(folder, provider="nnapi")
    assert client.ask("close")["open"] == 0


@pytest.mark.parametrize("budget", [None, 3])
def test_a_conversation_reads_nothing_twice_and_answers_as_by_the_runtime(loaded, vlm, budget):
    image = noise(50, 50)
    chat, seen, begin = vlm.chat(budget=budget), loaded.see(image), True
    sampling = Sampling(max_new_tokens=STEPS)
    for question, pictures in (("what?", [image]), ("a circle?", []), ("red?", [])):
        expected = chat.ask(question, pictures, sampling=sampling)
        more = {"begin": True, "seen": seen, "budget": budget} if begin else {}
        answer = loaded.ask("chat", text=question, most=STEPS, **more)
        assert answer["token_ids"] == tokens_of(expected)
        assert answer["prompt_tokens"] == expected.prompt_tokens["total"]
        assert begin or answer["cached_tokens"] == expected.prompt_tokens["cached"]
        begin = False


def test_a_second_question_goes_on_from_the_picture(loaded):
    seen = loaded.see(noise(50, 50))
    loaded.answer("what?", seen, most=1)
    again = loaded.answer("is it red?", seen, most=1)
    assert again["cached_tokens"] > BUDGET
    other = loaded.answer("is it red?", loaded.see(noise(51, 50)), most=1)
    assert other["cached_tokens"] < BUDGET


def test_a_system_text_comes_first(loaded, vlm):
    image = noise(50, 50)
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "what?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    expected = vlm.generate(messages=messages, sampling=Sampling(max_new_tokens=STEPS))
    asked = [
        {"role": "system", "text": "Be brief."},
        {"role": "user", "text": "what?", "seen": loaded.see(image)},
    ]
    answer = loaded.ask("answer", messages=asked, most=STEPS)
    assert answer["prompt_tokens"] == expected.prompt_tokens["total"]
    assert answer["token_ids"] == tokens_of(expected)


def test_text_alone_is_answered(loaded, vlm):
    expected = vlm.generate("what?", sampling=Sampling(max_new_tokens=STEPS))
    assert loaded.answer("what?", most=STEPS)["token_ids"] == tokens_of(expected)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_answer_ends_and_the_next_is_right(loaded, after):
    seen = loaded.see(noise(50, 50))
    whole = loaded.answer("what is it?", seen, most=40)
    cut = loaded.answer("what is it?", seen, most=40, cancel=after)
    assert cut["finish"] == "CANCELLED"
    assert len(cut["token_ids"]) < len(whole["token_ids"])
    assert cut["token_ids"] == whole["token_ids"][: len(cut["token_ids"])]
    assert loaded.answer("what is it?", seen, most=40)["token_ids"] == whole["token_ids"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"budget": 0}, "1 to 6"),
        ({"budget": 7}, "1 to 6"),
        ({"text": "<image>"}, "2 places for 1 pictures"),
        ({"most": 0}, "1 or more"),
        ({"text": "a " * 3000}, "smaller budget"),
    ],
)
def test_questions_that_cannot_be_served_are_refused_in_words(loaded, request_, words):
    seen = loaded.see(noise(50, 50))
    with pytest.raises(Refused, match=words) as refusal:
        loaded.answer(**{"text": "what?", "seen": seen, "most": 1, **request_})
    assert refusal.value.kind == "RequestException"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (["assistant"], "alternate"),
        (["user", "user"], "alternate"),
        (["user", "assistant"], "alternate"),
        ([], "alternate"),
    ],
)
def test_messages_that_are_no_conversation_are_refused(loaded, messages, words):
    listed = [{"role": role, "text": "a"} for role in messages]
    with pytest.raises(Refused, match=words):
        loaded.ask("answer", messages=listed, most=1)


def test_a_picture_of_a_further_question_is_refused(loaded):
    seen = loaded.see(noise(50, 50))
    roles = ("user", "assistant", "user")
    listed = [{"role": role, "text": "a"} for role in roles]
    listed[2]["seen"] = seen
    with pytest.raises(Refused, match="new conversation"):
        loaded.ask("answer", messages=listed, most=1)


TILES = {"name": "tiles", "options": {"min_tiles": 1, "max_tiles": 1_000_000}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stated: stated.update(format=2), "format 2"),
        (lambda stated: stated.pop("format"), "format null"),
        (lambda stated: stated["needs"].update(selectors="by the question"), "by the question"),
        (lambda stated: stated["needs"].update(unheard="of a new kind"), "of a new kind"),
        (lambda stated: stated["layout"].update(name="anyres"), "laid out as anyres"),
        (lambda stated: stated["picture"].update(resample="box-spline"), "filter box-spline"),
        (lambda stated: stated["picture"].update(mean=[1.0]), "channel statistics"),
        (lambda stated: stated["generation"]["processors"].update(new=1), "go through new"),
        (lambda stated: stated["layout"].update(TILES), "1 to 1000000 tiles"),
        (lambda stated: stated.pop("hidden"), "no hidden"),
        (lambda stated: stated["layout"].update(tile_size=[16]), "is damaged"),
        (lambda stated: stated["vision"]["graphs"].update(few={}), "is damaged"),
        (lambda stated: stated["picture"].update(crop_to=[]), "steps of a picture"),
        (lambda stated: stated["self_test"].update(pictures=[]), "is damaged"),
        (lambda stated: stated.update(layers=1 << 30), "1 to 1024"),
        (lambda stated: stated.update(hidden=-1), "1 to 1048576"),
        (lambda stated: stated.update(context=0), "1 to 67108864"),
        (lambda stated: stated.update(layers="4"), "is not a whole number"),
        (lambda stated: stated.update(layers=1 << 40), "too large"),
        (lambda stated: stated["vision"]["graphs"]["6"].update(fp32="../x"), "names the file"),
        (lambda stated: stated["vision"]["graphs"]["6"].update(fp32="/etc/x"), "names the file"),
        (lambda stated: stated["vision"]["graphs"]["6"].update(fp32="onnx/x"), "has no onnx/x"),
    ],
)
def test_artifacts_that_cannot_be_served_are_refused_in_words(
    client, folder, tmp_path, change, words
):
    other = shutil.copytree(folder, tmp_path / "other")
    stated = json.loads((other / "using.json").read_text())
    change(stated)
    (other / "using.json").write_text(json.dumps(stated))
    with pytest.raises(Refused, match=words) as refusal:
        client.load(other, test=True)
    assert refusal.value.kind == "ArtifactException"
    assert client.ask("close")["open"] == 0


@pytest.mark.parametrize("text", ["", "{", '{"a": }', "[" * 100, '{"a": "\\x"}', "nul", "{} {}"])
def test_damaged_json_is_refused(client, folder, tmp_path, text):
    (tmp_path / "using.json").write_text(text)
    with pytest.raises(Refused, match="damaged"):
        client.load(tmp_path)


@pytest.mark.parametrize("choice", [{"vision": "int3"}, {"decoder": "int3"}, {"budget": 5}])
def test_graphs_that_there_are_not_are_refused(client, folder, choice):
    with pytest.raises(Refused, match="there is no"):
        client.load(folder, **choice)
    assert client.ask("close")["open"] == 0


def test_another_provider_must_pass_the_self_test(client, folder):
    client.load(folder, provider="xnnpack", threads=2)
    assert client.ask("close")["open"] == 0
    with pytest.raises(Refused, match="does not pass the artifact's self-test") as refusal:
        client.load(folder, provider="nnapi")
    assert refusal.value.kind == "EngineException"
    assert client.ask("close")["open"] == 0


def test_another_provider_is_refused_where_there_is_no_self_test(client, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    stated = json.loads((other / "using.json").read_text())
    del stated["self_test"]
    (other / "using.json").write_text(json.dumps(stated))
    with pytest.raises(Refused, match="has none"):
        client.load(other, provider="xnnpack")
    assert client.ask("close")["open"] == 0
