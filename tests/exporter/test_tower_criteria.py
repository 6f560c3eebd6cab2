"""Ways to choose the rows that are kept in a tower, against their oracles, on layers that no tower
computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm_export.graphs.tower_rows import Rows
from pocketvlm_export.pruning.base import Evidence
from pocketvlm_export.tower_stages import (
    DEFAULT_CRITERION,
    TOWER_STAGES,
    find_criterion,
    make_criterion,
)
from pocketvlm_export.tower_stages.base import Seen
from pocketvlm_export.tower_stages.even import even_order
from pocketvlm_export.tower_stages.keys import rounds
from pocketvlm_export.verification.oracles import AmongPlaces, Ranking
from pocketvlm_export.verification.tower_stages import Layer, find_chooser
from pocketvlm_export.verification.tower_stages.base import best

HEADS, DEPTH, WIDTH = 2, 4, 12
seeds = st.integers(0, 2**32 - 1)


def drawn(seed, rows, columns, merge, there):
    """A layer with [CLS] of which so many tokens are there."""
    random = np.random.default_rng(seed)
    places = np.sort(random.permutation(rows * columns)[:there])
    count = there * merge**2
    maps = np.exp(2 * random.normal(size=(HEADS, count + 1, count + 1)))
    return Layer(
        (rows, columns),
        places,
        1,
        merge,
        (maps / maps.sum(-1, keepdims=True)).astype(np.float32),
        random.normal(size=(HEADS, count + 1, DEPTH)).astype(np.float32),
        random.normal(size=(HEADS, count + 1, DEPTH)).astype(np.float32),
        random.normal(size=(count, WIDTH)).astype(np.float32).astype(np.float64),
    )


def seen(layer, carried=None):
    """The same as the vision graph gives it to a stage."""
    tokens, square = len(layer.places), layer.merge**2

    def means(patches, axis):
        split = torch.from_numpy(patches).unflatten(axis, (tokens, square))
        return split.mean(dim=axis + 1).unsqueeze(0)

    whole = tokens == layer.grid[0] * layer.grid[1]
    hidden = layer.hidden.astype(np.float32).reshape(1, tokens, -1)
    return Seen(
        1,
        layer.grid,
        tokens,
        None if whole else torch.from_numpy(layer.places[None]),
        cls_row=means(layer.maps[:, 0, 1:], 1),
        received=means(layer.maps[:, 1:, 1:].mean(axis=(0, 1)), 0),
        keys=means(layer.keys[:, 1:].mean(axis=0), 0),
        values=means(layer.values[:, 1:], 1),
        cls_value=torch.from_numpy(layer.values[None, :, 0]),
        hidden=torch.from_numpy(hidden),
        carried=carried,
    )


@pytest.mark.parametrize("by", TOWER_STAGES)
@settings(max_examples=20, deadline=None)
@given(
    seed=seeds,
    rows=st.integers(1, 6),
    columns=st.integers(2, 6),
    merge=st.integers(1, 2),
    data=st.data(),
)
def test_it_lets_go_on_what_its_oracle_does(by, seed, rows, columns, merge, data):
    there = data.draw(st.integers(2, rows * columns), "there")
    keep = data.draw(st.integers(1, there), "keep")
    layer, criterion = drawn(seed, rows, columns, merge, there), make_criterion(by)
    one = seen(layer)
    if criterion.watches:
        one = replace(one, carried=criterion.carry(one))
    kept = criterion.choose(one, keep).numpy()
    assert kept.shape == (1, keep)
    choice = find_chooser(by)([layer], keep)
    assert any(np.array_equal(kept[0], each) for each in (choice.kept, *choice.otherwise))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, there=st.integers(4, 20), data=st.data())
def test_flowcut_adds_up_what_is_left(seed, there, data):
    """A second layer of some of the first one's tokens; the first one's scores are not made
    anew."""
    left = data.draw(st.integers(2, there), "left")
    one = drawn(seed, 4, 5, 1, there)
    kept = np.sort(np.random.default_rng(seed).permutation(there)[:left])
    two = replace(drawn(seed + 1, 4, 5, 1, left), places=one.places[kept])
    flowcut = make_criterion("flowcut")
    carried = flowcut.carry(seen(one))[:, kept]
    carried = flowcut.carry(seen(two, carried))
    ours = flowcut.choose(seen(two, carried), left // 2).numpy()[0]
    choice = find_chooser("flowcut")([one, two], left // 2)
    assert any(np.array_equal(ours, each) for each in (choice.kept, *choice.otherwise))


def test_saints_rounds():
    """576 tokens to 375 are seven rounds, as its authors count."""
    assert rounds(576, 375) == [540, 507, 476, 447, 420, 394, 375]
    assert rounds(10, 10) == []
    assert rounds(5, 2) == [4, 3, 2]


def test_half_of_an_even_pattern_is_a_checkerboard():
    for rows, columns in ((6, 6), (5, 7), (3, 3), (24, 24), (1, 8)):
        half = np.sort(even_order(rows, columns)[: (rows * columns + 1) // 2])
        board = [p for p in range(rows * columns) if (p // columns + p % columns) % 2 == 0]
        assert half.tolist() == board


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_an_even_pattern_has_every_token_once_and_is_spread(rows, columns):
    order = even_order(rows, columns)
    assert np.sort(order).tolist() == list(range(rows * columns))
    quarter = order[: max(1, rows * columns // 4)]
    row, column = np.divmod(quarter, columns)
    apart = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    assert (apart + 9 * np.eye(len(quarter), dtype=int)).min() >= 2


@settings(max_examples=20, deadline=None)
@given(data=st.data(), counts=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_numbers_of_what_is_left_are_those_of_the_whole_picture(data, counts):
    """Whatever the stages keep, one after the other."""
    tokens = 30
    picture = torch.arange(tokens, dtype=torch.float32).view(1, tokens, 1)
    rows = Rows(picture, None, Evidence(1, (5, 6)), listed={1: picture}, carried=picture[..., 0])
    for count in sorted(counts, reverse=True):
        among = data.draw(st.permutations(range(rows.hidden.shape[1])))[:count]
        kept = torch.tensor(sorted(among))[None]
        rows = rows.only(kept, kept)
    assert rows.evidence.places is not None
    places = rows.evidence.places[0]
    assert rows.evidence.tokens == min(counts)
    assert (places.diff() > 0).all()
    for held in (rows.hidden[0, :, 0], rows.listed[1][0, :, 0], rows.carried[0]):
        torch.testing.assert_close(held, places.float())


def test_the_registry():
    assert DEFAULT_CRITERION in TOWER_STAGES
    assert [find_criterion(name).name for name in TOWER_STAGES] == list(TOWER_STAGES)
    assert len({find_chooser(name) for name in TOWER_STAGES}) == len(TOWER_STAGES)


def test_a_tie_is_stated():
    scores = np.array([0.1, 0.5, 0.5 + 1e-9, 0.9])
    choice = best(scores, 2)
    assert choice.kept.tolist() == [2, 3]
    assert [other.tolist() for other in choice.otherwise] == [[1, 3]]
    assert best(scores, 1).otherwise == ()


def test_a_ranking_of_what_is_left():
    """By the numbers of the whole picture."""
    inner = Ranking(np.array([0.2, 0.9, 0.4]))
    ranking = AmongPlaces.of(inner, np.array([1, 5, 6]), 8)
    assert ranking.kept(2).tolist() == [5, 6]
    assert ranking.gap(2) == inner.gap(2) == pytest.approx(0.5)
    assert len(ranking.scores) == 8
    scores = np.array([0.9, 0.4], dtype=np.float32)
    assert ranking.distance(np.array([5, 6]), scores) == 0
    assert ranking.distance(np.array([1, 5]), scores) == pytest.approx(0.5)
    assert ranking.distance(np.array([4, 5]), scores) == 1
    assert ranking.distance(np.array([5, 8]), scores) == float("inf")
    assert ranking.score_difference(np.array([5, 6]), scores) < 1e-6
    assert not ranking.are_patches(np.array([0, 5]))
