"""What holds of every family and each of its layouts, whatever is exported. A new family is a line
of `FAMILIES`."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from PIL import Image

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.layouts import slot_count, tokens_of_tiles
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.caps import Caps
from pocketvlm_export.families import FAMILIES as KNOWN
from pocketvlm_export.loading import inspect_checkpoint

SMALL = 7
SIZES = [(60, 84), (84, 84), (150, 40), (9, 200)]  # (width, height)
# Where resolution is dynamic: 4 x 4 tokens of 28 pixels, which is one window of Qwen2.5-VL's tower,
# 5 x 7, of whose windows some are ragged, and fewer tokens than `SMALL`.
DYNAMIC_SIZES = [(112, 112), (196, 140), (60, 84), (84, 60)]
DYNAMIC = Caps(max_pixels=40 * 28 * 28)


@dataclass(frozen=True)
class Case:
    """The preset of a family's tiny checkpoint, a method that it takes, and one of its layouts."""

    preset: str
    layout: str
    pruner: str = "fastervlm"
    caps: Caps = field(default_factory=Caps)
    sizes: tuple[tuple[int, int], ...] = tuple(SIZES)


Dynamic = partial(Case, layout="hf", caps=DYNAMIC, sizes=tuple(DYNAMIC_SIZES))

FAMILIES = {
    "llava": [Case("tiny-llama", "single")],
    "llava_next": [Case("tiny-llava-next", "fastervlm"), Case("tiny-llava-next", "hf")],
    "llava_onevision": [
        Case("tiny-llava-onevision", "hf", "scope"),
        Case("tiny-llava-onevision", "whole", "divprune"),
    ],
    "smolvlm": [Case("tiny-smolvlm", "hf", "received-attention")],
    "idefics3": [Case("tiny-idefics3", "hf", "received-attention")],
    # Under transformers' own layout [CLS] is a token, and none is pruned.
    "video_llava": [Case("tiny-video-llava", "fastervlm"), Case("tiny-video-llava", "hf", "none")],
    "internvl": [Case("tiny-internvl", "hf", "scope")],
    "gemma3": [Case("tiny-gemma3", "single", "received-attention")],
    "qwen2_vl": [Dynamic("tiny-qwen2-vl", pruner="divprune")],
    "qwen2_5_vl": [Dynamic("tiny-qwen2.5-vl", pruner="received-attention")],
    "paligemma": [Case("tiny-paligemma", "single", "received-attention")],
    # 4 x 4, 3 x 6, 4 x 6 and 3 x 2 tokens of 32 pixels.
    "qwen3_vl": [
        Dynamic(
            "tiny-qwen3-vl",
            pruner="divprune",
            sizes=((112, 112), (192, 96), (196, 140), (60, 84)),
        )
    ],
    # The second is cut into 1 x 2 tiles of 6 x 6 tokens, and has a thumbnail of 4 x 9.
    "lfm2_vl": [
        Dynamic(
            "tiny-lfm2-vl",
            pruner="received-attention",
            sizes=((112, 112), (540, 250), (196, 140), (60, 84), (84, 60)),
        ),
        Dynamic("tiny-lfm2-vl", layout="whole", pruner="received-attention"),
    ],
}
CASES = [case for cases in FAMILIES.values() for case in cases]


def pictures(sizes):
    """Of each size, coarse noise."""
    random = np.random.default_rng(5)
    noise = [
        random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        for width, height in sizes
    ]
    return [Image.fromarray(pixels).resize(size) for pixels, size in zip(noise, sizes, strict=True)]


def turned(image):
    """A picture or frame of the same size, upside down."""
    return image.transpose(Image.Transpose.ROTATE_180)


def clips(sizes):
    """Of each size, frames of a clip that differ: a number that is not the one that is taken of
    it."""
    return [[image, turned(image), image] for image in pictures(sizes)]


class Exports:
    """One case's checkpoint, and the artifact of it whose graph ranks all tokens: smaller budgets
    are cut from it."""

    def __init__(self, case, checkpoint, folder):
        self.case, self.checkpoint, self.folder = case, checkpoint, folder
        spec = inspect_checkpoint(str(checkpoint)).spec
        self.spec = spec.family.capped(spec, case.caps)
        # With dynamic resolution those of the largest picture.
        self.tokens = self.spec.under(self.spec.layouts[case.layout]).vision.tokens
        self.asks = "videos" if self.spec.family.medium == "video" else "images"
        self.inputs = (clips if self.asks == "videos" else pictures)(case.sizes)
        export(
            str(checkpoint),
            folder / "pruned",
            ExportOptions(
                pruner=case.pruner, budgets=(self.tokens,), layout=case.layout, caps=case.caps
            ),
        )
        self.pruned = VLM.load(folder / "pruned")

    def prepare(self, images, budget, vlm=None):
        """The prepared pictures or clips, at a budget or at the only one that is served."""
        budget = self.tokens if self.case.pruner == "none" else budget
        viewer = (vlm or self.pruned).parts.viewer
        return viewer.prepare(images, budget)

    def encode(self, image, budget, vlm=None, pictures=1):
        """A picture or clip encoded by itself at a budget, and what fills its slots, as the only
        one of a prompt or as one of several."""
        encoded = self.prepare([image] * pictures, budget, vlm)[0]
        viewer = (vlm or self.pruned).parts.viewer
        return encoded, viewer.encode(encoded, cached=False).inputs_embeds

    def tokens_of(self, encoded):
        """N of each tile of a prepared picture, in the order of the prompt."""
        return tokens_of_tiles(self.pruned.parts.viewer.layout, encoded.grid)

    def answer(self, images, vlm=None, budget=None, **more):
        budget = None if self.case.pruner == "none" else budget
        return (vlm or self.pruned).generate("what?", budget=budget, **{self.asks: images}, **more)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.preset}-{case.layout}")
def exports(request, make_tiny, tmp_path_factory):
    return Exports(
        request.param, make_tiny(request.param.preset), tmp_path_factory.mktemp("invariants")
    )


def test_every_family_and_layout_is_here():
    assert FAMILIES.keys() == KNOWN.keys()


def test_all_layouts_of_the_family_are_here(exports):
    tested = {case.layout for case in FAMILIES[exports.spec.family.model_type]}
    assert tested == exports.spec.layouts.keys()


def test_the_pictures_differ_in_what_matters(exports):
    """Where resolution is dynamic: in their grid of tokens, in whether windows are whole, in
    whether there are as many tokens as are asked for."""
    if exports.spec.vision.image_size is not None:
        return
    prepared = exports.prepare(exports.inputs, SMALL)
    grids = {(grid.tokens.rows, grid.tokens.columns) for grid in (each.grid for each in prepared)}
    window = 112 // exports.spec.vision.factor
    ragged = [rows % window or columns % window for rows, columns in grids]
    assert len(grids) >= 3
    assert any(ragged)
    assert not all(ragged)
    assert any(rows > window or columns > window for rows, columns in grids)
    assert any(each.below_budget for each in prepared)
    assert not all(each.below_budget for each in prepared)


@pytest.mark.parametrize("budget", [1, SMALL - 1, SMALL, 36])
def test_slots_equal_features(exports, budget):
    manifest = Artifact.open(exports.folder / "pruned").manifest
    budget = min(budget, exports.tokens)
    for image in exports.inputs:
        encoded, features = exports.encode(image, budget)
        assert encoded.slots == len(features) == slot_count(encoded.layout, encoded.ids)
        assert encoded.slots <= encoded.tokens_before
        assert len(encoded.kept_indices) == sum(
            min(encoded.budget, tokens) for tokens in exports.tokens_of(encoded)
        )
        if str(budget) in manifest.vision.totals:
            assert encoded.slots <= manifest.vision.totals[str(budget)][str(encoded.grid)]
        answer = exports.answer([image], budget=budget, sampling=Sampling(max_new_tokens=1))
        assert answer.visual_tokens == {"before": encoded.tokens_before, "after": len(features)}


def test_all_tokens_kept_is_no_pruning(exports):
    """At budget N nothing is lost: under transformers' own layout it is the unpruned artifact."""
    for image in exports.inputs:
        encoded, features = exports.encode(image, exports.tokens)
        every = sum(exports.tokens_of(encoded))
        assert encoded.kept_indices == list(range(every))
        assert len(features) == encoded.tokens_before
    if not exports.spec.layouts[exports.case.layout].exact or exports.case.pruner == "none":
        return
    options = ExportOptions("none", layout=exports.case.layout, caps=exports.case.caps)
    export(str(exports.checkpoint), exports.folder / "none", options)
    whole = VLM.load(exports.folder / "none")
    for image in exports.inputs:
        expected = exports.encode(image, exports.tokens, whole)[1]
        np.testing.assert_allclose(exports.encode(image, exports.tokens)[1], expected, atol=2e-5)
        left, right = (
            exports.answer([image], vlm, sampling=Sampling(max_new_tokens=8))
            for vlm in (exports.pruned, whole)
        )
        assert (left.token_ids, left.visual_tokens) == (right.token_ids, right.visual_tokens)


@pytest.mark.parametrize("budget", [1, SMALL])
def test_kept_tokens_stand_in_raster_order(exports, budget):
    for image in exports.inputs:
        encoded, features = exports.encode(image, budget)
        kept = [row for batch in encoded.features for row in batch.kept_indices]
        assert [len(row) for row in kept] == [
            min(encoded.budget, tokens) for tokens in exports.tokens_of(encoded)
        ]
        assert all((np.diff(row) > 0).all() for row in kept)
        assert encoded.kept_indices == sorted(set(encoded.kept_indices))
        # Every feature of the picture is one of those of all tokens, and they stand in the same
        # order.
        every = exports.encode(image, exports.tokens)[1]
        distance = np.abs(features[:, None] - every[None]).max(axis=2)
        places = distance.argmin(axis=1)
        assert distance.min(axis=1).max() < 2e-5
        assert (np.diff(places) > 0).all() or len(np.unique(every, axis=0)) < len(every)


@pytest.mark.parametrize("number", [0, 1])
def test_a_batch_of_two_equals_two_batches(exports, number):
    """A picture or clip and the same upside down, which is cut into as many tiles of as many
    tokens."""
    image = exports.inputs[number]
    other = [turned(frame) for frame in image] if exports.asks == "videos" else turned(image)
    viewer = exports.pruned.parts.viewer
    first, second = (encoded.pixel_values for encoded in exports.prepare([image, other], SMALL))
    assert not np.array_equal(first, second)
    encode = viewer.encoder.encode
    both, alone = encode(np.concatenate([first, second])), [encode(first), encode(second)]
    for name, close in (("kept_indices", 0), ("kept_scores", 1e-6), ("image_features", 2e-5)):
        apart = np.concatenate([getattr(features, name) for features in alone])
        np.testing.assert_allclose(getattr(both, name), apart, atol=close)


def test_pictures_do_not_see_each_other(exports):
    """Bit by bit: each picture is encoded by itself."""
    viewer = exports.pruned.parts.viewer
    images = exports.inputs
    prepared = exports.prepare(images, SMALL)
    together = [viewer.encode(encoded, cached=False).inputs_embeds for encoded in prepared]
    alike = 1 if viewer.layout.several is viewer.layout else 2  # else one that is alone is another
    for image, features in zip(images, together, strict=True):
        expected = exports.encode(image, SMALL, pictures=alike)[1]
        np.testing.assert_array_equal(expected, features)
    answer = exports.answer(images[1:3], budget=SMALL, sampling=Sampling(max_new_tokens=1))
    assert answer.kept_indices == [encoded.kept_indices for encoded in prepared[1:3]]
