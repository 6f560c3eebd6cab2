"""Layouts: a picture in several tiles goes the whole way, with text between its slots, against
numpy by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling, layouts
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.layouts import (
    LAYOUTS,
    LayoutConfig,
    TileGrid,
    Tiles,
    TokenGrid,
    make_layout,
    open_layout,
    slot_count,
    tokens_before,
)
from pocketvlm.layouts.base import Prepared
from pocketvlm.layouts.single import tile_steps
from pocketvlm.media.pictures import open_picture
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.overlay import join_tiles
from support.tiny_artifact import PREPROCESSOR, read_manifest, write_artifact, write_manifest
from support.tiny_graphs import IMAGE, PATCHES, reference_logits, reference_vision

COMMA = 11  # some text token, between the tiles of a picture


class Halves(Prepared):
    """The upper half, the lower half, then the whole picture, a text token between them."""

    name = "halves"
    medium = "image"

    @classmethod
    def make(cls, config, processor_config=None):
        return cls(config, processor_config and tile_steps(processor_config))

    def grids(self):
        return [TileGrid(2, 1, "last")]

    def grid(self, height, width):
        return TileGrid(2, 1, "last")

    def _tiles(self, image):
        width, height = image.size
        return [
            image.crop((0, 0, width, height // 2)),
            image.crop((0, height // 2, width, height)),
            image,
        ]

    def views(self, image):
        return np.stack([self.steps.resize_and_crop(tile) for tile in self._tiles(image)])

    def cut(self, image):
        return Tiles(
            np.stack([self.steps(tile) for tile in self._tiles(image)]), TileGrid(2, 1, "last")
        )

    def expand(self, grid, budget, kept=None):
        slots = [self.config.image_token_id] * budget
        return np.array([*slots, COMMA, *slots, COMMA, *slots])

    def arrange(self, grid, image_features, kept_indices, constants):
        return image_features.reshape(-1, image_features.shape[-1])


def test_layouts_import_nothing_of_the_vision_graph():
    for path in Path(layouts.__file__).parent.glob("*.py"):
        assert "pocketvlm.vision" not in path.read_text().replace("`pocketvlm.vision.viewer", "")


@pytest.fixture
def halves(tmp_path, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "halves", Halves)
    weights = write_artifact(tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    manifest["vision"]["layout"] = {"name": "halves"}
    write_manifest(tmp_path / "a", manifest)
    return tmp_path / "a", weights


def by_hand(weights, vlm, prompt, pictures, budget, steps):
    """Greedy token ids and kept indices, from the numpy twins of the graphs."""
    preprocess = tile_steps(PREPROCESSOR)
    kept_indices, rows = [], []
    prompter = vlm.parts.prompter
    ids = prompter.encode(prompt, len(pictures)).tolist()
    for picture in pictures:
        at = ids.index(prompter.image_token_id)
        stands = [-1] * budget + [COMMA] + [-1] * budget + [COMMA] + [-1] * budget
        ids[at : at + 1] = stands
        kept = []
        image = open_picture(picture)
        upper = image.crop((0, 0, image.width, image.height // 2))
        lower = image.crop((0, image.height // 2, image.width, image.height))
        for number, tile in enumerate([upper, lower, image]):
            features, indices = reference_vision(weights, preprocess(tile), budget)
            rows.extend(features)
            kept += (indices + number * PATCHES).tolist()
        kept_indices.append(kept)
    ids = np.array(ids)
    embeddings = weights.embed[ids].astype(np.float64)
    if rows:
        embeddings[ids == -1] = rows
    token_ids = []
    while len(token_ids) < steps:
        token_ids.append(int(np.argmax(reference_logits(weights, embeddings))))
        embeddings = np.vstack([embeddings, weights.embed[token_ids[-1]]])
        if token_ids[-1] in vlm.artifact.manifest.decoder.eos_token_ids:
            break
    return token_ids, kept_indices, len(ids)


@pytest.fixture
def batches(monkeypatch):
    calls, real = [], VisionEncoder.encode
    monkeypatch.setattr(
        VisionEncoder,
        "encode",
        lambda self, pixels, *rest: calls.append(len(pixels)) or real(self, pixels, *rest),
    )
    return calls


@pytest.mark.parametrize(("count", "budget"), [(1, 6), (2, 4), (0, 6), (2, 1)])
def test_answers_in_tiles_equal_those_computed_by_hand(halves, picture, batches, count, budget):
    folder, weights = halves
    vlm = VLM.load(folder)
    pictures = [picture, np.ascontiguousarray(255 - picture[::-1])][:count]
    answer = vlm.generate(
        "what is it?", pictures, budget=budget, sampling=Sampling(max_new_tokens=5)
    )
    token_ids, kept, length = by_hand(weights, vlm, "what is it?", pictures, budget, 5)
    assert answer.token_ids == token_ids
    assert answer.kept_indices == kept
    assert answer.visual_tokens == {"before": 3 * PATCHES * count, "after": 3 * budget * count}
    assert answer.prompt_tokens["total"] == length
    assert batches == [3] * count  # a picture's tiles together, no two pictures


def test_a_conversation_reads_the_tiles_of_a_picture_once(halves, picture, batches):
    folder, weights = halves
    vlm = VLM.load(folder)
    chat = vlm.chat(budget=2)
    first = chat.ask("what?", [picture], sampling=Sampling(max_new_tokens=3))
    second = chat.ask("and?", sampling=Sampling(max_new_tokens=3))
    assert first.token_ids == by_hand(weights, vlm, "what?", [picture], 2, 3)[0]
    assert (
        second.prompt_tokens["cached"] >= first.prompt_tokens["total"] - 8
    )  # up to the answer, pictures included
    assert second.visual_tokens["after"] == 6
    assert batches == [3]


def test_features_of_tiles_are_kept_on_disk(halves, picture, tmp_path, batches):
    folder, _ = halves
    answers = [
        VLM.load(folder, feature_cache=tmp_path / "kept").generate(
            "what?", [picture], budget=b, sampling=Sampling(max_new_tokens=4)
        )
        for b in (6, 3, 6)
    ]
    assert batches == [3]
    assert answers[0].token_ids == answers[2].token_ids
    assert len(answers[1].kept_indices[0]) == 9


def test_a_layout_of_a_later_version_is_refused(artifact_dir):
    manifest = read_manifest(artifact_dir)
    manifest["vision"]["layout"] = {"name": "spiral"}
    write_manifest(artifact_dir, manifest)
    with pytest.raises(
        PocketVLMError, match="picture layout 'spiral' is unknown to this runtime, which has single"
    ):
        open_layout(Artifact.open(artifact_dir))


def test_one_tile_is_the_layout_of_artifacts_that_state_none(artifact_dir):
    manifest = read_manifest(artifact_dir)
    assert "layout" not in manifest["vision"]
    layout = open_layout(Artifact.open(artifact_dir))
    assert layout.name == "single"
    assert (layout.config.image_size, layout.config.patches) == ((IMAGE, IMAGE), PATCHES)


# What cuts pictures into parts of several sizes is in test_thumbnails.py.
@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"tiles-and-thumbnail"}))
def test_what_every_layout_says_of_itself(name):
    """Slots are counted alike everywhere, and the largest grid is last."""
    names = {"around": [1], "whole": [2], "row_end": [3], "last_row_end": [4]}
    tiles = {"longest_edge": 16, "splits": True, "marks": names, "parts": [[[5], [6]], [[8], [9]]]}
    tiles |= {"min_tiles": 1, "max_tiles": 4, "before": [1], "after": [2]}
    tiles |= {"factor": 4, "size": [8, 8], "most_tiles": 9}
    layout = make_layout(
        LayoutConfig(
            (8, 8), 4, 7, {"name": name, "pinpoints": [[8, 16], [16, 16]], "frames": 3, **tiles}
        )
    )
    sizes = [grid.tiles for grid in layout.grids()]
    assert sizes == sorted(sizes)
    for grid in layout.grids():
        slots = [slot_count(layout, layout.expand(grid, budget)) for budget in range(1, 5)]
        assert slots == sorted(slots)
        assert slots[0] >= grid.tiles
        assert tokens_before(layout, grid) <= slots[-1]
        assert grid.tiles == grid.rows * grid.columns + (grid.whole is not None)
        assert layout.token_grid(grid) == TokenGrid(2, 2)
    assert layout.processors
    assert layout.one_grid == (layout.grids()[-1].tiles == 1)
    if layout.medium == "image":
        assert layout.grid(*layout.largest_size()) == dataclasses.replace(
            layout.grids()[-1], size=layout.grid(*layout.largest_size()).size
        )
    assert layout.capped() is layout
    with pytest.raises(PocketVLMError, match="max_pixels"):
        layout.capped(max_pixels=10_000)
    with pytest.raises(PocketVLMError, match="max_tiles"):
        layout.capped(max_tiles=101)


def test_features_are_cut_where_text_stands_between_their_slots(artifact_dir):
    prompter = VLM.load(artifact_dir).parts.prompter
    slot = prompter.image_token_id
    stands = np.array([5, slot, slot, 6, 6, slot, 7])
    ids = prompter.place(np.array([1, slot, slot, 2]), [stands, np.array([slot])])
    assert ids.tolist() == [1, *stands, slot, 2]
    rows = np.arange(4, dtype=np.float32)[:, None]
    segments = prompter.segments(
        ids, [EmbeddingSegment(rows[:3], "a"), EmbeddingSegment(rows[3:], "b")]
    )
    filled = [
        s.inputs_embeds[:, 0].tolist() if isinstance(s, EmbeddingSegment) else s.ids.tolist()
        for s in segments
    ]
    assert filled == [[1, 5], [0, 1], [6, 6], [2], [7], [3], [2]]
    keys = [s.key for s in segments if isinstance(s, EmbeddingSegment)]
    assert len(set(keys)) == 3
    assert keys[-1] == "b"
    assert all(isinstance(s, EmbeddingSegment | TokenSegment) for s in segments)


def test_drawings_of_tiles_lie_as_in_the_picture():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (9, 9, 9)]
    drawings = [Image.new("RGB", (4, 4), colour) for colour in colours]
    sheet = join_tiles(drawings, TileGrid(2, 2, "last"))
    left = sheet.width - 8
    assert sheet.getpixel((0, 0)) == colours[4]
    assert [sheet.getpixel((left + x, y)) for y in (0, 4) for x in (0, 4)] == colours[:4]
    first = join_tiles(drawings, TileGrid(2, 2, "first"))
    assert [first.getpixel(at) for at in [(0, 0), (left, 0), (left + 4, 4)]] == [
        colours[0],
        colours[1],
        colours[4],
    ]
    assert join_tiles(drawings[:1], dataclasses.replace(TileGrid())) is drawings[0]
