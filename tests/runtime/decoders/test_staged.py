"""Scores that come with a picture: they are cut wherever its tokens are, and checked before they
are read."""

import numpy as np
import pytest

from pocketvlm.artifact import Artifact
from pocketvlm.decoders.base import EmbeddingSegment, TokenSegment
from pocketvlm.decoders.prefix import after
from pocketvlm.decoders.staged import visual_scores
from pocketvlm.errors import RequestError
from pocketvlm.text.prompts import Prompter
from support.tiny_artifact import write_artifact


def picture(*scores, tokens=None):
    rows = np.zeros((len(scores) if tokens is None else tokens, 4), np.float32)
    given = np.array(scores, dtype=np.float32) if scores else None
    return EmbeddingSegment(rows, "a", visual_scores=given)


TEXT = TokenSegment(np.array([1, 2]))


def test_text_has_none():
    segments = [TEXT, picture(0.5, -3, 7e9), TEXT, picture(1)]
    scores = visual_scores(segments)
    assert scores.tolist() == [0, 0, 0.5, -3, np.float32(7e9), 0, 0, 1]
    assert scores.dtype == np.float32


@pytest.mark.parametrize(
    ("segment", "given"),
    [
        (picture(tokens=3), "no scores"),
        (picture(1, 2, tokens=3), r"scores of shape \(2,\)"),
        (picture(1, np.nan, 2), "not finite"),
        (picture(1, np.inf, 2), "not finite"),
    ],
)
def test_what_is_no_score_for_each_token(segment, given):
    with pytest.raises(RequestError, match=f"a picture of 3 tokens comes with .*{given}") as error:
        visual_scores([TEXT, segment])
    assert "\n" not in str(error.value)


def test_what_is_left_of_a_picture_keeps_its_own():
    (rest,) = after([TEXT, picture(1, 2, 3)], 4)
    assert visual_scores([rest]).tolist() == [3]


def test_a_picture_with_text_between_its_tokens(tmp_path):
    write_artifact(tmp_path / "artifact")
    prompter = Prompter.from_artifact(Artifact.open(tmp_path / "artifact"))
    slot = prompter.image_token_id
    segments = prompter.segments(np.array([slot, slot, 5, slot]), [picture(1, 2, 3)])
    assert visual_scores(segments).tolist() == [1, 2, 0, 3]
