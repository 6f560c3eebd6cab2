"""The model card: how pictures are treated, by what the layout says of itself."""

import pytest

from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions
from pocketvlm_export.caps import Caps
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.packaging.card import write_card
from pocketvlm_export.planning import make_plan

OF_ANY_SIZE = [
    "6 of at most 20 visual tokens",
    "pictures of any size up to 15680 pixels, at most 20 tokens",
    "one of 6 tokens or fewer keeps all",
    "`--max-pixels` asks for less",
    "numbered by rows and columns",
]


@pytest.mark.parametrize(
    ("preset", "caps", "stated"),
    [
        ("tiny-qwen2.5-vl", Caps(max_pixels=784 * 20), OF_ANY_SIZE),
        (
            "tiny-qwen2.5-vl",
            Caps(fixed_size=(56, 84)),
            ["6 of 6 visual tokens", "all resized to 84x56 pixels", "rows and columns"],
        ),
        (
            "tiny-internvl",
            Caps(max_tiles=2),
            ["6 visual tokens per tile", "6 (1x1), 18 (1x2), 18 (2x1)", "`--max-tiles` asks"],
        ),
    ],
)
def test_the_card_says_how_pictures_are_treated(make_tiny, tmp_path, preset, caps, stated):
    checkpoint = inspect_checkpoint(str(make_tiny(preset)), None)
    write_card(make_plan(checkpoint, ExportOptions(budgets=(6,), caps=caps)), tmp_path)
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert [text for text in stated if text not in card] == []
    assert "transformers.js and other clients may not" in card
    others = {"any size", "all resized", "per tile", "rows and columns of its parts"}
    assert {text for text in others if text in card} == {
        text for text in others if text in " ".join(stated)
    } | ({"rows and columns of its parts"} if caps.max_tiles else set())


@pytest.mark.parametrize("by", ["given", "last-token"])
def test_who_is_given_scores_is_run_with_a_guide(make_tiny, tmp_path, by):
    checkpoint = inspect_checkpoint(str(make_tiny("tiny-llama")), None)
    options = ExportOptions("none", decoder_stages=(Stage(1, 5, by),))
    write_card(make_plan(checkpoint, options), tmp_path)
    card, guided = (tmp_path / "README.md").read_text(), by == "given"
    assert ("pocketvlm run . --guide SMALL --image photo.jpg" in card) == guided
    assert ('Guided(VLM.load("."), VLM.load("SMALL"))\n' in card) == guided
    assert ('VLM.load(".").generate("What is in the picture?", images=' in card) != guided
    assert ("SMALL below is that smaller model" in card) == guided
