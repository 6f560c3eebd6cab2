"""The adaptive budget: how many tokens hold a share of the scores, and answers with another number for each picture."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pocketvlm import VLM, AutoBudget, PocketVLMError
from pocketvlm.adaptive import SHARING
from pocketvlm.cli import main
from pocketvlm.vision import VisionFeatures
from support.tiny_artifact import write_artifact
from support.tiny_graphs import PATCHES

SHARE = 0.6


def features(scores):
    scores = np.asarray(scores, np.float32)
    return VisionFeatures(
        np.zeros((*scores.shape, 2), np.float32), np.tile(np.arange(scores.shape[1]), (len(scores), 1)), scores
    )


@pytest.mark.parametrize(
    ("share", "least", "expected"),
    [(0.4, 1, 1), (0.5, 1, 1), (0.51, 1, 2), (0.8, 1, 2), (0.82, 1, 3), (1, 1, 4), (0.4, 3, 3), (1, 4, 4)],
)
def test_the_smallest_number_that_holds_the_share(share, least, expected):
    assert AutoBudget(share, least).count(features([[0.125, 0.5, 0.0625, 0.3125]])) == expected


def test_tiles_keep_as_many_each_as_hold_the_share_together():
    plain, crowded = [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]
    counts = [AutoBudget(0.6).count(features(tiles)) for tiles in ([plain], [crowded], [plain, crowded])]
    assert counts == [1, 3, 2]


@pytest.mark.parametrize("scores", [[[0, 0, 0]], [[-1, -2, -3]], [[np.nan, 1, 1]]])
def test_scores_that_are_no_shares_still_give_a_number(scores):
    assert 1 <= AutoBudget().count(features(scores)) <= 3


@given(
    scores=arrays.arrays(np.float32, (1, 12), elements=st.floats(0, 1, width=32)),
    share=st.floats(0.01, 1),
    less=st.floats(0.01, 1),
)
def test_a_larger_share_never_takes_fewer(scores, share, less):
    found = features(scores)
    count = AutoBudget(share).count(found)
    assert 1 <= count <= 12
    assert AutoBudget(min(share, less)).count(found) <= count
    kept = found.narrow(count).kept_scores.astype(float).sum()
    assert kept >= share * scores.astype(float).sum() * (1 - 1e-12)


@pytest.mark.parametrize(("share", "least"), [(0, 1), (-0.1, 1), (1.01, 1), (float("nan"), 1), (0.5, 0)])
def test_settings_out_of_range(share, least):
    with pytest.raises(PocketVLMError, match="expected"):
        AutoBudget(share, least)


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [random.integers(0, high, (20, 24, 3), dtype=np.uint8) for high in (2, 256, 90, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("adaptive") / "a"
    write_artifact(root, budgets=(12, 6))
    return root


def fixed_counts(vlm, pictures):
    """How many tokens each picture should take, from the scores that the graph gives it."""
    counts = []
    for look in vlm._answerer.viewer.look(pictures, vlm._answerer.viewer._encoder.budget):
        vlm._answerer.viewer.see(look, cached=False)
        scores = sorted(np.maximum(look.features.kept_scores[0], 0).astype(float), reverse=True)
        counts.append(next(n for n in range(1, len(scores) + 1) if sum(scores[:n]) >= SHARE * sum(scores) - 1e-12))
    return counts


def test_each_picture_takes_its_own_number(folder, pictures):
    vlm = VLM.load(folder, budget=AutoBudget(SHARE))
    expected = fixed_counts(vlm, pictures)
    assert len(set(expected)) > 1
    alone = [vlm.generate("what?", [picture], max_new_tokens=4) for picture in pictures]
    together = vlm.generate("what?", pictures, max_new_tokens=4)
    assert together.tokens_per_picture == expected == [answer.tokens_per_picture[0] for answer in alone]
    assert together.visual_tokens == {"before": PATCHES * len(pictures), "after": sum(expected)}
    assert together.kept_indices == [answer.kept_indices[0] for answer in alone]
    for picture, count, answer in zip(pictures, expected, alone, strict=True):
        same = vlm.generate("what?", [picture], budget=count, max_new_tokens=4)
        assert (same.token_ids, same.kept_indices) == (answer.token_ids, answer.kept_indices)


def test_a_conversation_keeps_each_pictures_number(folder, pictures):
    vlm = VLM.load(folder)
    expected = fixed_counts(vlm, pictures[:2])
    chat = vlm.chat(AutoBudget(SHARE))
    chat.ask("what?", pictures[:1], max_new_tokens=3)
    second = chat.ask("and this?", pictures[1:2], max_new_tokens=3)
    assert second.tokens_per_picture == expected
    assert second.prompt_tokens["cached"] > expected[0]


def test_auto_is_the_default_share(folder, pictures):
    vlm = VLM.load(folder, budget="auto")
    answers = [vlm.generate("?", pictures, budget=budget, max_new_tokens=1) for budget in (None, "auto", AutoBudget())]
    assert answers[0].kept_indices == answers[1].kept_indices == answers[2].kept_indices
    assert max(answers[0].tokens_per_picture) <= 12


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(PocketVLMError, match="budget 'most': expected a number of tokens, or auto"):
        VLM.load(folder, budget="most")
    with pytest.raises(PocketVLMError, match="min tokens 13 is above the 12 tokens"):
        VLM.load(folder, budget=AutoBudget(min_tokens=13))
    for method in ("gprune", "divprune", "uniform", "none"):
        write_artifact(tmp_path / method, method=method)
        with pytest.raises(PocketVLMError, match=f"those of {method} are no shares .* {', '.join(SHARING)}"):
            VLM.load(tmp_path / method).generate("?", budget="auto")


def command(*arguments):
    return CliRunner().invoke(
        main, ["run", *map(str, arguments), "--prompt", "what?", "--json", "--max-new-tokens", "2"]
    )


def test_the_command_line(folder, tmp_path, pictures):
    files = []
    for number, picture in enumerate(pictures):
        files += ["--image", tmp_path / f"{number}.png"]
        Image.fromarray(picture).save(files[-1])
    result = command(folder, *files, "--budget", "auto", "--score-share", SHARE, "--min-tokens", 2)
    assert result.exit_code == 0, result.output
    expected = [max(2, count) for count in fixed_counts(VLM.load(folder), pictures)]
    assert json.loads(result.stdout)["tokens_per_picture"] == expected


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--budget", "some"], 2, "'some' is neither a whole number nor auto"),
        (["--score-share", "0.5"], 2, "--score-share is for --budget auto"),
        (["--budget", "6", "--min-tokens", "2"], 2, "--min-tokens is for --budget auto"),
        (["--budget", "auto", "--score-share", "2"], 1, "score share 2.0: expected a part of 1"),
    ],
)
def test_options_that_do_not_fit(folder, arguments, code, line):
    result = command(folder, *arguments)
    assert result.exit_code == code
    assert line in result.stderr
