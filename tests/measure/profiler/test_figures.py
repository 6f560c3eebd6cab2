"""Spread, turns, comparison, and what is said of the machine: against numpy, scipy and figures
written by hand."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pocketvlm import PocketVLMError
from pocketvlm.artifact import Manifest
from pocketvlm_measure import machine
from pocketvlm_measure.cases import Case
from pocketvlm_measure.profiler.compare import chance_of_at_most, compare, ratio_interval
from pocketvlm_measure.profiler.once import Sample
from pocketvlm_measure.profiler.questions import Question
from pocketvlm_measure.profiler.result import Profile, Result
from pocketvlm_measure.profiler.tables import tables
from pocketvlm_measure.spread import Spread
from pocketvlm_measure.turns import measure_in_turns, take_turns
from support.tiny_artifact import read_manifest

SAMPLES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=40)


@given(SAMPLES)
def test_a_spread_says_what_numpy_says(samples):
    spread = Spread(samples)
    assert spread.median == pytest.approx(np.median(samples))
    assert spread.mean == pytest.approx(np.mean(samples))
    assert spread.p95 == pytest.approx(np.percentile(samples, 95))
    expected = np.std(samples, ddof=1) if len(samples) > 1 else 0.0
    assert spread.deviation == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert set(spread.outliers) <= set(samples)


def test_outliers_are_named_and_kept():
    spread = Spread([10.0, 10.1, 9.9, 10.0, 30.0, 10.2])
    assert spread.outliers == [30.0]
    assert 30.0 in spread.samples
    assert spread.mean > 13


@given(st.integers(1, 6), st.integers(1, 6))
def test_turns_are_interleaved_and_begin_with_another_candidate_each(candidates, repeat):
    names = list(range(candidates))
    taken = [
        (turn, name)
        for turn, name, sample in take_turns(names, lambda name: name, repeat)
        if sample == name
    ]
    assert len(taken) == candidates * repeat
    for turn in range(repeat):
        of_turn = [
            name
            for number, name in taken[turn * candidates : (turn + 1) * candidates]
            if number == turn
        ]
        assert sorted(of_turn) == names
        assert of_turn[0] == names[turn % candidates]


def test_turns_to_warm_up_do_not_count():
    calls = iter(range(100))
    samples = measure_in_turns(
        {"a": lambda: next(calls), "b": lambda: next(calls)}, repeat=3, warmup=2
    )
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}
    assert min(min(times) for times in samples.values()) == 4  # two turns of two came before


def rank_sum_chances(n, m):
    """The chance of each value 0..n*m of Mann-Whitney's U where both sides are alike, in whole
    numbers: the coefficients of the Gaussian binomial [n+m over n], built factor by factor, (1 -
    q^(m+i)) / (1 - q^i)."""
    ways = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            ways[u] -= ways[u - m - i]
        for u in range(i, n * m + 1):
            ways[u] += ways[u - i]
    total = sum(ways)
    return [count / total for count in ways]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_chances_of_the_rank_sum_are_the_closed_form(n, m, data):
    u = data.draw(st.integers(0, n * m))
    expected = sum(rank_sum_chances(n, m)[: u + 1])
    assert chance_of_at_most(n, m, u) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@settings(deadline=None)
@given(st.integers(1, 25), st.integers(1, 25))
def test_the_interval_ends_at_the_pairs_that_the_closed_form_gives(n, m):
    rng = np.random.default_rng(n * 100 + m)
    a, b = rng.uniform(1, 2, n), rng.uniform(1, 2, m)
    outside = int((np.cumsum(rank_sum_chances(n, m)) <= 0.005).sum())
    pairs = np.sort(np.divide.outer(b, a).ravel())
    ends = (pairs[outside - 1], pairs[-outside]) if outside else (None, None)
    assert ratio_interval(a, b)[1:] == pytest.approx(ends)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 10**6), min_size=5, max_size=9, unique=True),
    st.lists(st.integers(1, 10**6), min_size=5, max_size=9, unique=True),
)
def test_the_interval_leaves_out_one_exactly_where_scipys_test_rejects(a, b):
    """At 99 %, which is what turning the test round means."""
    if set(a) & set(b):
        return
    ratio, low, high = ratio_interval(a, b)
    assert low <= ratio <= high
    p = stats.mannwhitneyu(a, b, alternative="two-sided", method="exact").pvalue
    assert (low > 1 or high < 1) == (p <= 0.01)


def test_too_few_samples_tell_nothing():
    assert ratio_interval([1.0, 1.1], [5.0, 5.1])[1:] == (None, None)


def row(stage="ttft", samples=(100, 101, 102, 103, 104, 105), **changes):
    fields = {
        "budget": 36,
        "decoder": "onnx",
        "decoder_precision": "fp32",
        "vision_precision": "fp32",
        "n_threads": 2,
        "cpu_info": "one",
        "stage": stage,
        "samples_ns": [round(sample * 1e6) for sample in samples],
        "samples_peak_memory_bytes": [100_000_000 + 1000 * i for i in range(6)],
    }
    return fields | changes


def write(path, *rows):
    path.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return path


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, "same within the spread"),
        (0.5, "less"),
        (2.0, "more"),
        (1.03, "same within the spread"),
    ],
)
def test_verdicts_respect_the_spread(tmp_path, factor, verdict):
    ours = row()
    theirs = row(samples=[factor * sample / 1e6 for sample in ours["samples_ns"]])
    comparisons, differences = compare(write(tmp_path / "a", ours), write(tmp_path / "b", theirs))
    ttft, memory = comparisons
    assert (ttft.stage, ttft.verdict, memory.stage) == ("ttft", verdict, "peak memory")
    assert ttft.ratio == pytest.approx(factor)
    assert memory.verdict == "same within the spread"
    assert differences == []


def test_wide_spreads_hide_what_narrow_ones_show(tmp_path):
    narrow = write(tmp_path / "a", row(samples=[100, 101, 99, 100, 101, 99]))
    wide = write(tmp_path / "b", row(samples=[80, 125, 70, 140, 95, 130]))
    assert compare(narrow, wide)[0][0].verdict == "same within the spread"
    clear = write(tmp_path / "c", row(samples=[110, 111, 109, 110, 111, 109]))
    assert compare(narrow, clear)[0][0].verdict == "more"


def test_only_what_both_measured_is_compared_and_conditions_are_told(tmp_path):
    a = write(tmp_path / "a", row(), row(budget=7), row("decode"))
    b = write(tmp_path / "b", row(cpu_info="another"), row(budget=144))
    comparisons, differences = compare(a, b)
    assert {(item.case, item.stage) for item in comparisons} == {
        ("36 tokens, onnx fp32, vision fp32, 2 threads", stage) for stage in ("ttft", "peak memory")
    }
    assert differences == ["cpu_info: one in A, another in B"]


def test_one_configuration_each_is_compared_whatever_they_are(tmp_path):
    comparisons, _ = compare(write(tmp_path / "a", row()), write(tmp_path / "b", row(budget=7)))
    assert comparisons[0].case.startswith(
        "36 tokens, onnx fp32, vision fp32, 2 threads -> 7 tokens"
    )


def test_files_that_cannot_be_compared(tmp_path):
    good = write(tmp_path / "good", row(), row(budget=9))
    with pytest.raises(PocketVLMError, match="no configuration in common"):
        compare(good, write(tmp_path / "other", row(budget=7)))
    hostile = [
        "{",
        "[]",
        "null",
        "{}",
        json.dumps(row(samples_ns=["x"])),
        json.dumps(row(stage=[])),
        "[" * 100_000,
    ]
    hostile += [json.dumps(row()).replace("100000000", "NaN"), json.dumps(row(samples_ns=[True]))]
    for text in hostile:
        (tmp_path / "bad").write_text(json.dumps(row()) + "\n" + text)
        with pytest.raises(PocketVLMError, match="bad line 2 is not a row of a profile"):
            compare(good, tmp_path / "bad")
    (tmp_path / "bad").write_text("")
    with pytest.raises(PocketVLMError, match="is empty"):
        compare(good, tmp_path / "bad")
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(PocketVLMError, match="cannot be read"):
        compare(good, tmp_path / "bad")


def test_load_of_others_is_what_linux_counts(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(machine.os, "sysconf", lambda _: 100)
    own = iter([5.0, 5.5])
    monkeypatch.setattr(machine.time, "process_time", lambda: next(own))
    stat.write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n")
    watch = machine.LoadWatch()
    # 4 seconds of CPU time later: 1.5 in use (0.25 of them the host's), 0.5 by this process.
    stat.write_text("cpu  200 10 115 900 150 0 0 25 0 0\n")
    assert watch.other_load() == pytest.approx(100 * (1.5 - 0.5) / 4)


@pytest.mark.skipif(not machine.STAT.exists(), reason="Linux tells, others need psutil")
def test_another_process_counts_and_this_one_does_not():
    watch = machine.LoadWatch()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.6)
        busy.kill()
    with_another = watch.other_load()
    assert with_another > 100 * 0.2 / 0.6 / (2 * machine.os.cpu_count())


def test_the_machine_is_described():
    here = machine.Machine.look(seconds=0.05)
    assert here.cpus >= here.cores >= 1
    assert here.versions["pocketvlm"]
    assert here.cpu in here.describe()
    assert "\n" not in here.describe()


def machine_with(other_load):
    return machine.Machine(
        "a CPU", 2, 2, None, "Linux", "powersave", other_load, {"pocketvlm": "0"}
    )


def profile_of(manifest, ttfts, other_load=1.0, load_meanwhile=1.0):
    """A profile whose samples are written by hand: {budget: milliseconds to the first token}."""
    stages = dict.fromkeys(
        ("load", "preprocess", "vision", "embed", "prefill", "decode", "total"), 10.0
    )
    profile = Profile("folder", manifest, machine_with(other_load), Question("what?"), 3, 1, "now")
    for budget, samples in ttfts.items():
        result = Result(Case(budget, "onnx", "fp32", "fp32", 2), 1, manifest)
        for ttft in samples:
            run = {**stages, "ttft": ttft, "prefill": ttft / 2}
            counted = (36, budget, budget + 40, 5, 4, 10**8, load_meanwhile)
            result.samples.append(Sample(run, *counted, tile_tokens=(36,)))
        profile.results.append(result)
    return profile


@pytest.mark.parametrize(
    ("before", "meanwhile", "warning"),
    [
        (1.0, 2.0, None),
        (40.0, 2.0, "others used 40 % of its CPUs before measuring"),
        (1.0, 30.0, "during 3 of 3 runs others used over 15 % of its CPUs, 30 % at most"),
        (None, None, "does not count how busy its CPUs are"),
    ],
)
def test_a_busy_machine_is_warned_of(artifact_dir, before, meanwhile, warning):
    manifest = Manifest.from_dict(read_manifest(artifact_dir))
    warnings = profile_of(manifest, {6: [10.0, 11.0, 12.0]}, before, meanwhile).warnings()
    assert warnings == [] if warning is None else warning in "".join(warnings)


@pytest.mark.parametrize(("limit", "warned"), [(99, True), (100, False), (0, False), (None, False)])
def test_what_takes_more_memory_than_the_limit_is_warned_of(artifact_dir, limit, warned):
    profile = profile_of(Manifest.from_dict(read_manifest(artifact_dir)), {6: [10.0, 11.0, 12.0]})
    profile.memory_limit = limit
    expected = ["6 tokens, onnx fp32, vision fp32, 2 threads: 100 MB are over the limit of 99 MB"]
    assert profile.warnings() == (expected if warned else [])


def test_savings_stand_beside_what_the_formulas_promise(tiny_export):
    manifest = Manifest.from_dict(read_manifest(tiny_export))
    profile = profile_of(manifest, {18: [200.0, 210.0, 190.0], 9: [100.0, 90.0, 600.0]})
    stages, savings = tables(profile)
    assert [row[0] for row in savings.rows] == ["18", "9"]
    cells = [dict(zip(savings.head, row, strict=True)) for row in savings.rows]
    assert [cell["ttft"] for cell in cells] == ["200", "100"]
    assert [cell["sooner"] for cell in cells] == ["1.00x", "2.00x"]
    # "by FLOPs" stands twice: of all before the first token, and of the prefill.
    first_token, prefill = (at for at, name in enumerate(savings.head) if name == "by FLOPs")
    costs = [result.costs for result in profile.results]
    assert (
        savings.rows[1][first_token]
        == f"{costs[0].flops_first_token / costs[1].flops_first_token:.2f}x"
    )
    assert savings.rows[1][prefill] == f"{costs[0].flops_prompt / costs[1].flops_prompt:.2f}x"
    assert [row[stages.head.index("ttft")] for row in stages.rows] == ["200", "100"]
    (outlier,) = profile_of(manifest, {9: [100.0, 101.0, 99.0, 100.0, 600.0]}).outliers()[:1]
    assert outlier["samples_ms"] == [300.0]  # half of it went into the prefill, which comes first
    widths = {len(line) for line in savings.text().splitlines()[1:]}
    assert len(widths) == 1
    assert savings.markdown().count("\n|") == 4
