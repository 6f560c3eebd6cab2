"""Every method on made-up evidence: against an oracle in float64, and what must hold of it whatever
the picture."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.vision.features import VisionFeatures
from pocketvlm_export.families import VisionSpec
from pocketvlm_export.pruning import PRUNERS, find_pruner, make_pruner
from pocketvlm_export.pruning.base import Evidence
from pocketvlm_export.verification.oracles import Encoded, find_oracle

HEADS, SIDE, WIDTH, HIDDEN, LAYERS = 3, 4, 8, 12, 4
TOKENS = SIDE * SIDE
OPTIONS = {
    "vtc-cls": {"start_layer": "1"},
    "gprune": {"threshold": "0.3", "temperature": "0.1", "steps": "3"},
    "random": {"seed": "5"},
}
PRUNING = [name for name in PRUNERS if find_pruner(name).prunes]
TOWER = VisionSpec(None, (4 * SIDE, 4 * SIDE), TOKENS, True, feature_layers=(LAYERS,))
SCORING = [name for name in PRUNING if find_pruner(name).reads]
NESTED = [name for name in PRUNING if find_pruner(name).nested]
# What is left of a ranking once it is known which patches are dominant goes by the raster.
ORDERLESS = [name for name in SCORING if name not in ("visionzip",)]
seeds = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Scene:
    """What a tower with [CLS] might have computed for one picture."""

    maps: np.ndarray  # float32 (layers, heads, N + 1, N + 1)
    features: np.ndarray  # float32 (N, C)
    projected: np.ndarray  # float32 (N, hidden)
    text: np.ndarray  # float32 (T, hidden)
    keys: np.ndarray  # float32 (heads, N + 1, d)

    @classmethod
    def draw(cls, seed: int) -> "Scene":
        random = np.random.default_rng(seed)
        maps = np.exp(2 * random.normal(size=(LAYERS, HEADS, TOKENS + 1, TOKENS + 1)))
        centres = random.normal(size=(4, HIDDEN))
        projected = centres[random.integers(0, 4, TOKENS)] + 0.6 * random.normal(
            size=(TOKENS, HIDDEN)
        )
        features = random.normal(size=(TOKENS, WIDTH)).astype(np.float32)
        return cls(
            (maps / maps.sum(-1, keepdims=True)).astype(np.float32),
            features,
            projected.astype(np.float32),
            random.normal(size=(5, HIDDEN)).astype(np.float32),
            random.normal(size=(HEADS, TOKENS + 1, 5)).astype(np.float32),
        )

    def reordered(self, order: np.ndarray) -> "Scene":
        """The same patches in another order."""
        tokens = np.concatenate([[0], order + 1])
        return Scene(
            self.maps[:, :, tokens][:, :, :, tokens],
            self.features[order],
            self.projected[order],
            self.text,
            self.keys[:, tokens],
        )

    def encoded(self) -> Encoded:
        """As the gate gives it to an oracle."""
        features, projected = self.features.astype(float), self.projected.astype(float)
        return Encoded(
            self.maps,
            1,
            features,
            projected,
            (SIDE, SIDE),
            keys=self.keys,
            text=self.text.astype(float),
        )


def evidence(name, *scenes) -> Evidence:
    """As the vision graph gives it to a method: nothing that it does not read."""
    pruner = make(name)
    first = pruner.first_layer(LAYERS - 1)
    stack = {
        "cls_rows": tuple(
            torch.from_numpy(np.stack([s.maps[i, :, 0, 1:] for s in scenes]))
            for i in range(first, LAYERS)
        ),
        "received": torch.from_numpy(
            np.stack([scene.maps[-1, :, 1:, 1:].mean(axis=(0, 1)) for scene in scenes])
        ),
        "keys": torch.from_numpy(np.stack([s.keys[:, 1:].mean(axis=0) for s in scenes])),
        "features": torch.from_numpy(np.stack([scene.features for scene in scenes])),
        "projected": torch.from_numpy(np.stack([scene.projected for scene in scenes])),
        "text": torch.from_numpy(scenes[0].text[None]),
    }
    fields = {"cls_rows" if read == "cls_row" else read for read in pruner.reads}
    return Evidence(len(scenes), (SIDE, SIDE), **{field: stack[field] for field in fields})


def make(name):
    """The method, settled for a tower with [CLS]."""
    pruner = make_pruner(name, OPTIONS.get(name, {}))
    pruner.settle(TOWER)
    return pruner


def kept(name, *scenes, budget=6):
    """Kept indices (B, k) and scores."""
    selection = make(name).select(evidence(name, *scenes), budget)
    return selection.indices.numpy(), selection.scores.numpy()


@pytest.mark.parametrize("name", PRUNING)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, budget=st.integers(1, TOKENS))
def test_it_keeps_what_the_oracle_keeps(name, seed, budget):
    scene = Scene.draw(seed)
    indices, scores = kept(name, scene, budget=budget)
    ranking = find_oracle(name)(scene.encoded(), make(name).options)
    assert (np.diff(indices[0]) > 0).all()
    assert ranking.distance(indices[0], scores[0]) < 1e-6
    assert ranking.score_difference(indices[0], scores[0]) < 1e-5
    if ranking.gap(budget) > 1e-4:
        np.testing.assert_array_equal(indices[0], ranking.kept(budget))


@pytest.mark.parametrize("name", NESTED)
@settings(max_examples=10, deadline=None)
@given(seed=seeds, small=st.integers(1, TOKENS - 1))
def test_a_smaller_budget_is_cut_from_a_larger_one(name, seed, small):
    scene = Scene.draw(seed)
    indices, scores = kept(name, scene, budget=TOKENS)
    cut = VisionFeatures(scene.projected[None], indices, scores).narrow(small)
    np.testing.assert_array_equal(cut.kept_indices, kept(name, scene, budget=small)[0])
    np.testing.assert_array_equal(cut.kept_scores, kept(name, scene, budget=small)[1])


@pytest.mark.parametrize("name", PRUNERS)
def test_the_whole_budget_keeps_all(name):
    indices, _ = kept(name, Scene.draw(0), Scene.draw(1), budget=TOKENS)
    np.testing.assert_array_equal(indices, [np.arange(TOKENS)] * 2)


@pytest.mark.parametrize("name", PRUNING)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_a_picture_is_selected_from_by_itself(name, seed):
    one = Scene.draw(seed)
    other = replace(Scene.draw(seed + 1), text=one.text)
    together, alone = kept(name, one, other), (kept(name, one), kept(name, other))
    np.testing.assert_array_equal(together[0], np.concatenate([indices for indices, _ in alone]))
    np.testing.assert_allclose(
        together[1], np.concatenate([scores for _, scores in alone]), rtol=1e-5
    )


@pytest.mark.parametrize("name", ORDERLESS)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_patches_in_another_order_are_kept_in_that_order(name, seed):
    scene, order = Scene.draw(seed), np.random.default_rng(seed).permutation(TOKENS)
    indices, scores = kept(name, scene)
    moved, moved_scores = kept(name, scene.reordered(order))
    if (
        name == "divprune"
    ):  # two patches are nearest to each other, and which comes first is picked first
        assert (
            find_oracle(name)(scene.encoded(), {}).distance(order[moved[0]], moved_scores[0]) < 1e-6
        )
        return
    back = np.argsort(order[moved[0]])
    np.testing.assert_array_equal(order[moved[0]][back], indices[0])
    np.testing.assert_allclose(moved_scores[0][back], scores[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["gprune", "divprune", "scope", "score"])
@pytest.mark.parametrize("factor", [1e-3, 64.0])
def test_the_scale_of_the_features_does_not_matter(name, factor):
    scene = Scene.draw(7)
    scaled = replace(scene, projected=np.float32(factor) * scene.projected)
    np.testing.assert_array_equal(kept(name, scaled)[0], kept(name, scene)[0])


@pytest.mark.parametrize(("start", "same"), [(LAYERS - 1, True), (0, False)])
def test_vtc_cls_from_the_score_layer_on_is_fastervlm(start, same, monkeypatch):
    monkeypatch.setitem(OPTIONS, "vtc-cls", {"start_layer": str(start)})
    equal = [
        kept("vtc-cls", Scene.draw(seed))[0].tolist()
        == kept("fastervlm", Scene.draw(seed))[0].tolist()
        for seed in range(9)
    ]
    assert all(equal) if same else not all(equal)


def test_gprune_without_a_step_ranks_by_norm_and_degree():
    pruner = make_pruner("gprune", {"steps": "0", "threshold": "0.01"})
    # Three patches alike, one that is like none: (norm, degree) = (1, 3), (2, 3), (3, 3) and (1,
    # 1).
    rows = np.array([[1, 0], [2, 0], [3, 0], [0, 1]], np.float32)
    scores = pruner.score(Evidence(1, (2, 2), projected=torch.from_numpy(rows[None])))
    np.testing.assert_allclose(scores[0], [1 / 3, 2 / 3, 1, 1], rtol=1e-6)


def test_divprune_never_picks_a_patch_twice():
    same = torch.ones(1, 9, 4)
    assert make_pruner("divprune", {}).select(Evidence(1, (3, 3), projected=same), 9).indices[
        0
    ].tolist() == [*range(9)]


def test_received_attention_needs_no_cls():
    maps = (
        np.random.default_rng(3)
        .dirichlet(np.ones(TOKENS), size=(1, HEADS, TOKENS))
        .astype(np.float32)
    )
    ranking = find_oracle("received-attention")(
        Encoded(maps, 0, np.zeros((TOKENS, 1)), np.zeros((TOKENS, 1)), (4, 4)), {}
    )
    np.testing.assert_allclose(ranking.scores, maps[0].mean(axis=(0, 1)), rtol=1e-5)
    assert ranking.scores.sum() == pytest.approx(1)


def test_uniform_is_even_at_every_budget():
    order = make_pruner("uniform", {}).order((24, 24))
    for budget in (29, 58, 144, 288):
        columns, rows = order[:budget] % 24, order[:budget] // 24
        quarters = np.histogram2d(rows, columns, bins=[2, 2], range=[[0, 24], [0, 24]])[0]
        assert quarters.min() > budget / 4 * 0.75, (budget, quarters)
        # A grid's every patch has one within a distance; chance leaves holes.
        gaps = (
            np.abs(np.arange(24)[:, None, None] - rows) ** 2
            + np.abs(np.arange(24)[None, :, None] - columns) ** 2
        )
        assert np.sqrt(gaps.min(axis=-1).max()) < 1.5 * 24 / np.sqrt(budget), budget


def test_another_seed_is_another_draw():
    orders = [
        make_pruner("random", {"seed": str(seed)}).order((6, 6)).tolist() for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(36))
