"""Pictures of any size: as many tokens as they have, up to the budget, the whole way from pixels to
an answer."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.cli.run import summary
from pocketvlm.layouts import TokenGrid, open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm.vision.overlay import draw_budgets
from support.noise import picture
from support.tiny_artifact import make_dynamic, read_manifest, write_artifact, write_manifest
from support.tiny_graphs import PATCH, reference_logits, reference_vision

K, TOKENS = 6, 24
# (width, height) and rows and columns of their tokens: more than the budget, as many, fewer, the
# largest
SIZES = {(20, 12): (3, 5), (12, 8): (2, 3), (8, 4): (1, 2), (500, 300): (3, 6)}
QUESTION = "what is it?"


@pytest.fixture
def folder(tmp_path):
    weights = write_artifact(tmp_path / "a", budgets=(K,))
    make_dynamic(tmp_path / "a", weights, K, TOKENS)
    return tmp_path / "a"


@pytest.fixture
def weights(tmp_path, folder):
    return write_artifact(tmp_path / "same", budgets=(K,))


def by_hand(weights, vlm, image, budget, steps):
    """Greedy token ids, kept patches and the rows of a picture, from the numpy twins."""
    layout = vlm.parts.viewer.layout
    pixels = layout.cut(open_picture(image)).pixel_values[0]
    features, kept = reference_vision(weights, pixels, budget)
    ids = vlm.parts.prompter.encode(QUESTION, 1, len(kept))
    embeddings = weights.embed[ids].astype(np.float64)
    embeddings[ids == vlm.parts.prompter.image_token_id] = features
    token_ids = []
    while len(token_ids) < steps:
        token_ids.append(int(np.argmax(reference_logits(weights, embeddings))))
        embeddings = np.vstack([embeddings, weights.embed[token_ids[-1]]])
        if token_ids[-1] in vlm.artifact.manifest.decoder.eos_token_ids:
            break
    return token_ids, kept.tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", [K, 3, 1])
def test_answers_equal_those_computed_by_hand(folder, weights, size, budget):
    vlm, image = VLM.load(folder), picture(*size)
    rows, columns = SIZES[size]
    answer = vlm.generate(QUESTION, [image], budget=budget, sampling=Sampling(max_new_tokens=5))
    token_ids, kept = by_hand(weights, vlm, image, budget, 5)
    assert answer.token_ids == token_ids
    assert answer.kept_indices == [kept]
    after = min(budget, rows * columns)
    assert answer.visual_tokens == {"before": rows * columns, "after": after}
    assert answer.tokens_per_picture == [after]
    assert answer.pictures_below_budget == int(rows * columns < budget)
    assert ("1 picture has fewer than the budget and kept all" in summary(answer)) == (
        rows * columns < budget
    )


def test_pictures_of_several_sizes_in_one_prompt(folder):
    vlm = VLM.load(folder)
    images = [picture(*size) for size in SIZES]
    answer = vlm.generate("these?", images, sampling=Sampling(max_new_tokens=1))
    counts = [rows * columns for rows, columns in SIZES.values()]
    assert answer.tokens_per_picture == [min(K, count) for count in counts]
    assert answer.visual_tokens == {"before": sum(counts), "after": 6 + 6 + 2 + 6}
    assert answer.pictures_below_budget == 1


def test_the_decoder_gets_the_grid_and_what_was_kept_of_it(folder):
    viewer = VLM.load(folder).parts.viewer
    for size, grid in SIZES.items():
        for budget in (K, 2):
            (prepared,) = viewer.prepare([picture(*size)], budget)
            segment = viewer.encode(prepared, cached=False)
            assert segment.grid == TokenGrid(*grid)
            assert segment.kept.tolist() == prepared.kept_indices
            assert len(segment) == len(segment.kept) == prepared.slots
            assert prepared.tokens_before == grid[0] * grid[1]


def test_features_of_any_size_are_kept_in_a_folder(folder, tmp_path, monkeypatch):
    calls, real = [], VisionEncoder.encode
    monkeypatch.setattr(
        VisionEncoder, "encode", lambda self, *rest: calls.append(1) or real(self, *rest)
    )
    # Those of one colour have the same bytes, whatever their proportions.
    flat = [Image.new("RGB", size, (90, 120, 7)) for size in ((24, 8), (8, 24), (12, 16))]
    images = [*(picture(*size) for size in SIZES), *flat]
    answers = []
    for expected in (len(images), 0):
        vlm = VLM.load(folder, feature_cache=tmp_path / "kept")
        answers.append(
            [
                vlm.generate(QUESTION, [image], budget=b, sampling=Sampling(max_new_tokens=4))
                for image in images
                for b in (K, 2)
            ]
        )
        assert len(calls) == expected
        calls.clear()
    for first, second in zip(*answers, strict=True):
        assert first.token_ids == second.token_ids
        assert first.kept_indices == second.kept_indices
        assert first.pictures_below_budget == second.pictures_below_budget


def test_a_budget_above_the_graphs_is_refused_whatever_the_picture(folder):
    vlm = VLM.load(folder)
    with pytest.raises(PocketVLMError, match=f"budget {K + 1} is not served"):
        vlm.generate(QUESTION, [picture(8, 4)], budget=K + 1)


def test_smaller_pictures_can_be_asked_for(folder):
    image = picture(500, 300)
    vlm = VLM.load(folder, max_pixels=8 * PATCH**2)
    answer = vlm.generate(QUESTION, [image], sampling=Sampling(max_new_tokens=1))
    assert answer.visual_tokens == {"before": 6, "after": 6}
    for limit, found in ((TOKENS * PATCH**2 + 1, "expected 16..384"), (15, "expected 16..384")):
        with pytest.raises(PocketVLMError, match=f"max_pixels {limit}: {found}"):
            VLM.load(folder, max_pixels=limit)
    with pytest.raises(PocketVLMError, match="max_tiles is nothing that the layout smart-resize"):
        VLM.load(folder, max_tiles=2)


def test_commands_take_smaller_pictures(folder, tmp_path):
    file = tmp_path / "p.png"
    picture(500, 300).save(file)
    asked = ["run", str(folder), "--image", str(file), "--prompt", QUESTION, "--json"]
    whole = json.loads(CliRunner().invoke(main, asked).stdout)
    small = json.loads(CliRunner().invoke(main, [*asked, "--max-pixels", "128"]).stdout)
    assert whole["visual_tokens"]["before"] == 18
    assert small["visual_tokens"]["before"] == 6
    refused = CliRunner().invoke(main, [*asked, "--max-tiles", "2"])
    assert refused.exit_code == 1
    lines = CliRunner().invoke(main, ["inspect", str(folder)]).stdout
    assert "pictures   any size up to 384 pixels, at most 24 tokens" in lines
    capped = ["inspect", str(folder), "--max-pixels", "128"]
    assert "any size up to 128 pixels, at most 8" in CliRunner().invoke(main, capped).stdout
    assert "at most 24 tokens per picture" in lines
    drawn = ["inspect", str(folder), "--image", str(file), "--overlay", str(tmp_path / "o.png")]
    kept = json.loads(CliRunner().invoke(main, [*drawn, "--json", "--max-pixels", "128"]).stdout)
    assert kept["kept_indices"] == small["kept_indices"][0]
    assert CliRunner().invoke(main, [*drawn, "--max-pixels", "100000"]).exit_code == 1


def test_the_drawing_follows_the_pictures_own_grid(folder):
    for size, (rows, columns) in SIZES.items():
        ((drawing, kept),) = draw_budgets(Artifact.open(folder), picture(*size), [K]).values()
        assert drawing.width * rows == drawing.height * columns
        assert len(kept) == min(K, rows * columns)


def test_a_manifest_that_states_no_size_needs_a_layout_that_takes_any(folder):
    manifest = read_manifest(folder)
    manifest["vision"]["layout"] = {"name": "single"}
    write_manifest(folder, manifest)
    with pytest.raises(PocketVLMError, match=r"unknown|no image size"):
        open_layout(Artifact.open(folder))
