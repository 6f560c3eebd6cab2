"""The formulas of the papers against the figures that the papers print."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.artifact import Manifest
from pocketvlm.artifact.specs import Tower
from pocketvlm.errors import ArtifactError
from pocketvlm_measure.profiler.costs import (
    cache_bytes,
    costs_of,
    flops_of_tower,
    macs_of_grouped_queries,
    macs_of_mlp_with_three_matrices,
    macs_of_mlp_with_two_matrices,
    prefill_flops,
    tower_flops,
)
from support.tiny_artifact import read_manifest

LLAMA_7B = {"d": 4096, "m": 11008, "layers": 32}
LLAMA_13B = {"d": 5120, "m": 13824, "layers": 40}
CLIP_L = {"n": 577, "d": 1024, "m": 4096}
MIB = 1 << 20


@pytest.mark.parametrize(
    ("n", "tera"), [(2880, 41.650), (320, 4.198), (576, 7.634), (144, 1.876), (64, 0.831)]
)
def test_prefill_of_vicuna_7b(n, tera):
    """CDPruner prints 41.7 and 4.2 for the first two."""
    assert prefill_flops(n, **LLAMA_7B) / 1e12 == pytest.approx(tera, abs=5e-4)


@pytest.mark.parametrize(
    ("n", "tera"), [(576, 14.888), (288, 7.376), (144, 3.671), (58, 1.475), (29, 0.737)]
)
def test_prefill_of_vicuna_13b(n, tera):
    assert prefill_flops(n, **LLAMA_13B) / 1e12 == pytest.approx(tera, abs=5e-4)


@pytest.mark.parametrize(
    ("n", "tera", "mib"),
    [
        (2880, 43.58, 1440),
        (2160, 32.35, 1080),
        (1440, 21.66, 720),
        (720, 11.51, 360),
        (290, 5.71, 145),
        (145, 3.80, 72.5),
    ],
)
def test_fastervlms_table_of_llava_next(n, tera, mib):
    """Five tiles through all 24 layers of the tower; keys and values in float16."""
    flops = prefill_flops(n, **LLAMA_7B) + 5 * tower_flops(**CLIP_L, layers=24)
    assert flops / 1e12 == pytest.approx(tera, rel=1.5e-3)
    assert cache_bytes(n, layers=32, kv_heads=32, head_dim=128, value_bytes=2) / MIB == mib


def test_the_tower():
    assert tower_flops(**CLIP_L, layers=24) / 1e12 == pytest.approx(0.3812, abs=5e-5)
    assert tower_flops(**CLIP_L, layers=23) / 1e12 == pytest.approx(0.3653, abs=5e-5)


def test_fastv():
    """K=3, R=50 % of 576 visual tokens in a 7B model: three layers read all, 29 a half."""
    whole, part = (32 * macs_of_mlp_with_two_matrices(n, 4096, 11008) / 1e12 for n in (576, 288))
    assert (3 * whole + 29 * part) / (32 * whole) == pytest.approx(0.5403, abs=5e-5)
    assert (whole, part) == (pytest.approx(2.986, abs=5e-4), pytest.approx(1.471, abs=5e-4))


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 256), st.integers(1, 20_000))
def test_as_many_key_heads_as_heads_is_what_the_papers_count(n, heads, head_dim, m):
    d = heads * head_dim
    grouped = macs_of_grouped_queries(n, d, m, heads, heads, head_dim)
    assert grouped == pytest.approx(macs_of_mlp_with_three_matrices(n, d, m))
    assert macs_of_grouped_queries(n, d, m, heads, 1, head_dim) <= grouped


def test_of_an_artifact(tiny_export):
    """Against the same sums written out from the checkpoint's shape: see
    tools/make_checkpoint/presets.py."""
    manifest = Manifest.from_dict(read_manifest(tiny_export))
    costs = costs_of(manifest, tiles=[36, 36], visual=18, prompt=50, value_bytes=4)
    d, m, layers, heads, kv_heads, head_dim = 64, 96, 2, 4, 2, 16
    assert costs.flops == 2 * layers * (4 * 18 * d * d + 2 * 18 * 18 * d + 3 * 18 * d * m)
    projections = d * heads * head_dim + 2 * d * kv_heads * head_dim + heads * head_dim * d
    assert costs.flops_prompt == 2 * layers * (
        50 * projections + 2 * 50 * 50 * heads * head_dim + 3 * 50 * d * m
    )
    tower = 2 * 37 * (4 * 32 * 32 + 2 * 37 * 32 + 2 * 32 * 64)
    assert (
        costs.flops_vision == 2 * 3 * tower
    )  # two pictures through three of the tower's four layers
    assert costs.flops_first_token == costs.flops_prompt + costs.flops_vision
    assert (costs.kv_bytes, costs.kv_bytes_prompt) == (
        18 * 2 * 2 * 2 * 16 * 4,
        50 * 2 * 2 * 2 * 16 * 4,
    )


def test_an_artifact_that_does_not_state_its_widths(artifact_dir):
    costs = costs_of(
        Manifest.from_dict(read_manifest(artifact_dir)),
        tiles=[6],
        visual=6,
        prompt=9,
        value_bytes=4,
    )
    assert (costs.flops, costs.flops_prompt, costs.flops_vision, costs.flops_first_token) == (
        None,
    ) * 4
    assert costs.kv_bytes == 6 * 2 * 2 * 8 * 4


# Qwen2.5-VL-3B's tower: 32 layers, 28 of them within windows of 8 x 8 patches, a gated MLP.
TOWER_3B = Tower(32, 1280, 3420, 2048, mlp_matrices=3, window=64, windowed_layers=28)


@pytest.mark.parametrize("patches", [64, 1564, 2048])
def test_a_tower_with_windows_and_a_gated_mlp(patches):
    """Against its matrices one by one, and what was counted for a picture of 640x480 pixels, whose
    1032 G multiply-adds have the patch embedding and the merger in them."""
    linear = patches * (3 * 1280 * 1280 + 1280 * 1280 + 3 * 1280 * 3420)
    whole, within = (2 * patches * others * 1280 for others in (patches, 64))
    expected = 32 * linear + 4 * whole + 28 * within
    assert flops_of_tower(TOWER_3B, patches) == pytest.approx(2 * expected)
    if patches == 1564:
        assert flops_of_tower(TOWER_3B, patches) / 2e9 == pytest.approx(1032, rel=0.02)


def test_a_tower_without_windows_costs_what_the_papers_count():
    plain = Tower(24, CLIP_L["d"], CLIP_L["m"], 577)
    assert flops_of_tower(plain, 577) == tower_flops(**CLIP_L, layers=24)


def test_every_picture_costs_by_its_own_tokens(artifact_dir):
    data = read_manifest(artifact_dir)
    most = data["pruning"]["tokens_before"]
    tower = {"layers": 32, "hidden": 1280, "intermediate": 3420, "sequence": 4 * most}
    tower |= {"mlp_matrices": 3, "window": 64, "windowed_layers": 28}
    data["vision"] |= {"tower": tower}
    manifest = Manifest.from_dict(data)
    costs = costs_of(manifest, tiles=[2, 7], visual=4, prompt=9, value_bytes=4)
    expected = flops_of_tower(manifest.vision.tower, 8) + flops_of_tower(manifest.vision.tower, 28)
    assert costs.flops_vision == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [{"windowed_layers": 33, "window": 64}, {"windowed_layers": 1}, {"mlp_matrices": 4}],
)
def test_a_manifest_with_an_impossible_tower_is_refused(artifact_dir, wrong):
    data = read_manifest(artifact_dir)
    tower = {"layers": 32, "hidden": 1280, "intermediate": 3420, "sequence": 64}
    data["vision"] |= {"tower": tower | wrong}
    with pytest.raises(ArtifactError):
        Manifest.from_dict(data)


def test_of_an_artifact_with_fastv(artifact_dir):
    """FastV's own example through what `profile` calls: K=3, half of 576 visual tokens, a decoder
    of the 7B shape."""
    data = read_manifest(artifact_dir)
    shape = {
        "layers": 32,
        "hidden": 4096,
        "intermediate": 11008,
        "heads": 32,
        "kv_heads": 32,
        "head_dim": 128,
    }
    data["decoder"] |= {**shape, "stages": [{"layer": 3, "keep": 288, "by": "last-token"}]}
    manifest = Manifest.from_dict(data)
    prompt = {"tiles": [576], "visual": 576, "prompt": 640, "value_bytes": 2}
    whole, part = costs_of(manifest, **prompt), costs_of(manifest, **prompt, dropped=[288])
    by_layer = [macs_of_mlp_with_three_matrices(n, 4096, 11008) for n in (576, 288)]
    assert part.flops / whole.flops == pytest.approx(
        (3 * by_layer[0] + 29 * by_layer[1]) / (32 * by_layer[0])
    )
    assert whole.flops / 1e12 == pytest.approx(7.634, abs=5e-4)
    grouped = [macs_of_grouped_queries(n, 4096, 11008, 32, 32, 128) for n in (640, 352)]
    assert part.flops_prompt == pytest.approx(2 * (3 * grouped[0] + 29 * grouped[1]))
    # Keys and values of each layer for the tokens that it reads: half a MiB a token over all 32.
    assert part.kv_bytes / MIB == (3 * 576 + 29 * 288) / 32 * 0.5
    assert (whole.kv_bytes - part.kv_bytes, whole.kv_bytes_prompt - part.kv_bytes_prompt) == (
        29 * 288 * MIB / 64,
    ) * 2


def test_fastervlms_table_of_fastv():
    """FasterVLM's table at half the tokens, 23.04 T and 765 MiB: two layers of 2880 tokens, thirty
    of 1440."""
    flops = prefill_flops(2880, 4096, 11008, 2) + prefill_flops(1440, 4096, 11008, 30)
    assert (flops + 5 * tower_flops(**CLIP_L, layers=24)) / 1e12 == pytest.approx(23.04, rel=1.5e-3)
    assert cache_bytes(2880, 2, 32, 128, 2) + cache_bytes(1440, 30, 32, 128, 2) == 765 * MIB
