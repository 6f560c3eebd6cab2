"""Pictures whose tiles have two sizes, with a tiny artifact, the whole way from pixels to an
answer: what the vision graph gives of each is joined in the order of the prompt."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.layouts import TileGrid, TokenGrid, layout_config, make_layout
from pocketvlm.limits import APART
from pocketvlm.media.pictures import open_picture
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.overlay import draw_budgets
from support.noise import picture
from support.tiny_artifact import make_thumbnails, write_artifact
from support.tiny_graphs import reference_logits, reference_vision

K = 11
# (width, height); rows and columns of the tiles of 16 tokens, and tokens of the whole picture
SIZES = {
    (20, 12): (0, 0, 2 * 4),  # in one tile
    (40, 20): (1, 2, 2 * 4),  # thumbnails below the budget
    (30, 70): (2, 1, 5 * 2),
    (50, 40): (2, 2, 3 * 3),
    (10, 120): (4, 1, 12 * 1),
}
QUESTION = "what is it?"
SHORT = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thumbnails") / "a"
    make_thumbnails(folder, write_artifact(folder, budgets=(K,)), K)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory, folder):
    return write_artifact(tmp_path_factory.mktemp("same") / "a", budgets=(K,))


@pytest.fixture(scope="module")
def vlm(folder):
    return VLM.load(folder, limits=APART)


def tokens_of(size):
    rows, columns, whole = SIZES[size]
    return [*[16] * (rows * columns), whole]


def by_hand(weights, vlm, image, budget, steps):
    """Greedy token ids and kept patches of a picture, from the numpy twins."""
    tiles = vlm.parts.viewer.layout.cut(open_picture(image))
    pixels = [tile for batch in tiles.batches for tile in batch]
    seen = [reference_vision(weights, tile, budget) for tile in pixels]
    slot, rows = vlm.parts.prompter.image_token_id, iter(seen)
    ids = [40]
    if tiles.grid.tiles > 1:
        for row in range(tiles.grid.rows):
            for column in range(tiles.grid.columns):
                ids += [50 + 4 * row + column, *[slot] * len(next(rows)[1])]
        ids.append(42)
    ids += [*[slot] * len(next(rows)[1]), 41]
    prompt = vlm.parts.prompter.encode(QUESTION, 1).tolist()
    at = prompt.index(slot)
    ids = np.array([*prompt[:at], *ids, *prompt[at + 1 :]])
    embeddings = weights.embed[ids].astype(np.float64)
    embeddings[ids == slot] = np.concatenate([features for features, _ in seen])
    token_ids = []
    while len(token_ids) < steps:
        token_ids.append(int(np.argmax(reference_logits(weights, embeddings))))
        embeddings = np.vstack([embeddings, weights.embed[token_ids[-1]]])
        if token_ids[-1] in vlm.artifact.manifest.decoder.eos_token_ids:
            break
    first = np.cumsum([0, *(tile.shape[1] * tile.shape[2] // 16 for tile in pixels)])
    kept = [number for (_, rows), at in zip(seen, first, strict=False) for number in rows + at]
    return token_ids, kept


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", [K, 3, 1])
def test_answers_equal_those_computed_by_hand(vlm, weights, size, budget):
    image, tokens = picture(*size), tokens_of(size)
    answer = vlm.generate(QUESTION, [image], budget=budget, sampling=SHORT)
    token_ids, kept = by_hand(weights, vlm, image, budget, 4)
    assert answer.token_ids == token_ids
    assert answer.kept_indices == [kept]
    after = sum(min(budget, count) for count in tokens)
    assert answer.visual_tokens == {"before": sum(tokens), "after": after}
    assert answer.pictures_below_budget == int(max(tokens) < budget)


def test_the_tiles_of_each_size_are_a_batch(vlm):
    for size, (rows, columns, whole) in SIZES.items():
        (prepared,) = vlm.parts.viewer.prepare([picture(*size)], K)
        shapes = [(*batch.shape[:2], batch[0, 0].size // 16) for batch in prepared.tiles.batches]
        assert shapes == [(rows * columns, 3, 16)] * (rows > 0) + [(1, 3, whole)]
        assert prepared.tokens_before == sum(tokens_of(size))
        before = prepared.ids
        segment = vlm.parts.viewer.encode(prepared, cached=False)
        assert segment.grid is segment.kept is None
        assert prepared.pixel_values is None
        assert len(segment) == prepared.slots
        np.testing.assert_array_equal(before, prepared.ids)


def test_a_grid_says_which_tiles_have_one_size():
    parts, whole = TokenGrid(4, 4), TokenGrid(2, 5)
    last = TileGrid(2, 3, "last", tokens=parts, whole_tokens=whole)
    assert last.tiles == 7
    assert last.batches == (TileGrid(2, 3, tokens=parts), TileGrid(tokens=whole))
    assert TileGrid(2, 3, "first", tokens=parts, whole_tokens=whole).batches == (
        TileGrid(tokens=whole),
        TileGrid(2, 3, tokens=parts),
    )
    for alike in (TileGrid(), TileGrid(2, 2, "last"), TileGrid(tokens=parts)):
        assert alike.batches == (alike,)


def test_pictures_of_one_prompt_do_not_change_each_other(vlm):
    images = [picture(*size) for size in SIZES]
    together = vlm.generate("these?", [*images, images[1]], budget=2, sampling=SHORT)
    alone = [
        vlm.generate("this?", [image], budget=2, sampling=SHORT).kept_indices[0] for image in images
    ]
    assert together.kept_indices == [*alone, alone[1]]
    assert together.tokens_per_picture == [len(kept) for kept in together.kept_indices]


def test_a_conversation_answers_as_a_fresh_prompt_does(vlm):
    chat, messages = vlm.chat(), []
    for prompt, image in (("what?", picture(40, 20)), ("why?", None), ("this?", picture(30, 70))):
        images = [] if image is None else [image]
        answer = chat.ask(prompt, images, sampling=SHORT)
        content = [{"type": "image", "image": image} for image in images]
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": prompt}]})
        fresh = vlm.generate(messages=messages, sampling=SHORT)
        assert (answer.token_ids, answer.kept_indices) == (fresh.token_ids, fresh.kept_indices)
        assert (answer.prompt_tokens["cached"] > 0) == (len(messages) > 1)
        said = [{"type": "text", "text": answer.text.strip()}]
        messages.append({"role": "assistant", "content": said})


def test_features_of_each_size_are_kept_in_a_folder(folder, tmp_path, monkeypatch):
    calls, real = [], VisionEncoder.encode
    monkeypatch.setattr(
        VisionEncoder, "encode", lambda self, *rest: calls.append(1) or real(self, *rest)
    )
    images, answers = [picture(*size) for size in SIZES], []

    def ask():
        vlm = VLM.load(folder, feature_cache=tmp_path / "kept")
        calls.clear()
        return [
            vlm.generate(QUESTION, [image], budget=budget, sampling=SHORT)
            for image in images
            for budget in (K, 2)
        ]

    for expected in (9, 0):
        answers.append(ask())
        assert len(calls) == expected
    # A damaged file is of one size: the other is still good.
    files = sorted((tmp_path / "kept").glob("*.safetensors"))
    assert len(files) == 9
    files[0].write_bytes(b"damaged")
    answers.append(ask())
    assert len(calls) == 1
    for several in zip(*answers, strict=True):
        assert len({str((answer.token_ids, answer.kept_indices)) for answer in several}) == 1


@pytest.mark.parametrize("size", [size for size, (rows, _, _) in SIZES.items() if rows])
def test_the_drawing_has_the_thumbnail_beside_the_tiles(folder, vlm, size):
    rows, columns, _ = SIZES[size]
    *_, whole = vlm.parts.viewer.layout.views(open_picture(picture(*size)))
    scale = -(-512 // max(whole.shape[:2]))
    drawn = draw_budgets(Artifact.open(folder), picture(*size), [K, 3])
    for budget, (drawing, kept) in drawn.items():
        assert kept == vlm.generate("?", [picture(*size)], budget=budget).kept_indices[0]
        assert drawing.width == whole.shape[1] * scale + 32 + 512 * columns
        assert drawing.height == max(whole.shape[0] * scale, 512 * rows)


def test_fewer_and_smaller_tiles_where_less_is_asked_for(folder):
    image = picture(50, 40)
    counts = {
        (): [16, 16, 16, 16, 9],
        (("max_tiles", 3),): [16, 16, 9],
        (("max_tiles", 1),): [9],
        (("max_pixels", 100),): [4, 4, 4, 4, 4],
        (("max_tiles", 2), ("max_pixels", 144)): [9, 9, 6],
    }
    for caps, tokens in counts.items():
        vlm = VLM.load(folder, **dict(caps))
        answer = vlm.generate("?", [image], budget=2, sampling=SHORT)
        assert answer.visual_tokens == {"before": sum(tokens), "after": 2 * len(tokens)}
    for caps in ({"max_tiles": 5}, {"max_pixels": 257}, {"max_tiles": 0}, {"max_pixels": 15}):
        with pytest.raises(PocketVLMError, match=next(iter(caps))):
            VLM.load(folder, **caps)


@pytest.mark.parametrize(
    "changed",
    [
        {"tile": 18},
        {"tile": 32},
        {"tile": "16"},
        {"min_tiles": 1},
        {"max_tiles": 101},
        {"max_tiles": 1},
        {"cut_above": -1},
        {"patch": 5},
        {"patch": None},
        {"thumbnail": 1},
        {"whole": "slot"},
        {"whole": 7},
        {"parts": [[[1]]]},
        {"parts": [[[1]] * 4] * 3},
        {"parts": [[[True]] * 4] * 4},
        {"parts": 7},
        {"parts": [7] * 4},
        {"size": [16, 16]},
        {"max_tiles": 3, "min_tiles": 3},
        {"cut_above": 400},
    ],
)
def test_damaged_options_are_refused_in_one_line(vlm, changed):
    config = layout_config(vlm.artifact.manifest)
    options = {**config.options, **changed}
    if options["whole"] == "slot":
        options["whole"] = [config.image_token_id]
    processor = vlm.artifact.read_json("preprocessor_config.json")
    with pytest.raises(PocketVLMError) as error:
        make_layout(dataclasses.replace(config, options=options), processor)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("area", [(1 << 26) + 1, 10**30])
def test_no_picture_is_large_beyond_all_pictures(vlm, area):
    """The largest picture is sought in steps of a token: the search must end."""
    config = layout_config(vlm.artifact.manifest)
    options = {**config.options, "cut_above": area}
    with pytest.raises(PocketVLMError, match="67108864 pixels in one tile"):
        make_layout(dataclasses.replace(config, options=options))
    options["cut_above"] = 1 << 26
    height, width = make_layout(dataclasses.replace(config, options=options)).largest_size()
    assert 1 << 26 < height * width < 1 << 27


@pytest.mark.parametrize(
    "changed",
    [
        {"max_pixels_tolerance": 1e300},
        {"max_pixels_tolerance": 1e7},
        {"max_image_tokens": 10**400},
        {"max_image_tokens": 10**9, "max_pixels_tolerance": 1},
    ],
    ids=["infinite", "too many", "no float", "whole"],
)
def test_a_processor_that_calls_no_picture_large_is_refused(vlm, changed):
    processor = vlm.artifact.read_json("preprocessor_config.json")
    with pytest.raises(PocketVLMError) as error:
        make_layout(layout_config(vlm.artifact.manifest), {**processor, **changed})
    assert "\n" not in str(error.value)


def test_the_commands_count_tiles_and_thumbnails(folder, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    printed = run("inspect", folder)
    assert "at most 4 tiles of 16x16 pixels and a thumbnail" in printed
    asked = ["profile", folder, "--repeat", "1", "--warmup", "0", "--new-tokens", "1", "--json"]
    for row in json.loads(run(*asked, "--picture-size", "50x40", "--max-tiles", "3"))["results"]:
        assert (row["tiles"], row["visual_tokens_before"]) == (3, 2 * 16 + 9)
        assert row["visual_tokens_after"] == 2 * K + 9
    picture(40, 20).save(tmp_path / "p.png")
    run("inspect", folder, "--image", tmp_path / "p.png", "--overlay", tmp_path / "o.png")
    assert (tmp_path / "o.png").stat().st_size
