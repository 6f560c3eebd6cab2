"""The frontier: what is compared, what is chosen on which questions, which points no other beats,
and that times are taken of real artifacts."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frontier import __main__ as program
from frontier import accuracy, beside, grid, points
from frontier.accuracy import Accuracy
from frontier.models import Models
from frontier.plot import COLOURS, draw
from frontier.processes import in_processes
from frontier.settings import Dimensions, Setting, scaled_tokens, work
from frontier.timing import Stopwatch, Times
from make_checkpoint import PRESETS
from pocketvlm.artifact import Artifact
from pocketvlm.artifact.stages import Stage, in_order
from pocketvlm.errors import RequestError
from pocketvlm_export.decoder_stages import DECODER_STAGES
from pocketvlm_export.pruning import PRUNERS
from pocketvlm_export.tower_stages import TOWER_STAGES
from pocketvlm_measure.evaluation.statistics import Difference, Estimate

DEMO, CLIP_L = Dimensions(144, 5, 4), Dimensions(576, 23, 24)
TOWER, DECODER = (Stage(2, 72, "even"),), (Stage(1, 72, "last-token"), Stage(2, 36, "last-token"))


def estimate(value):
    return Estimate(value, value - 0.02, value + 0.02)


def at(value, first_token, budget=36, method="One", stages=""):
    name = f"{method}+{stages}"
    return points.Point(name, method, stages, budget, 144, estimate(value), None, first_token)


def test_the_table_of_the_readme_shows_the_data():
    """Tokens kept, TTFT by the unpruned model's, accuracy: SCOPE with and without a stage."""
    root = Path(__file__).parents[2]
    every = json.loads((root / "docs" / "data" / "frontier.json").read_text("utf-8"))["points"]
    found = {
        (one["method"], one["stages"], one["budget"]): (
            f"{one['first_token']:.2f}",
            f"{100 * one['exact']['value']:.1f}",
        )
        for one in every
    }
    table = (root / "README.md").read_text("utf-8").partition("## What it gains\n")[2]
    row = r"^\| ([^|]*) \| ([\d.]+) \| ([\d.]+) \|$"
    shown = re.findall(row, table, re.MULTILINE)
    stage = ", and half of the patches dropped inside the tower"
    assert {kept: (ttft, right) for kept, ttft, right in shown} == {
        "all": found["No pruning", "", 144],
        "half": found["SCOPE", "", 72],
        "a quarter, the default": found["SCOPE", "", 36],
        f"a quarter{stage}": found["SCOPE", "tower 2:72:keys", 36],
        "a tenth": found["SCOPE", "", 14],
        f"a tenth{stage}": found["SCOPE", "tower 2:72:keys", 14],
    }


def test_the_same_parts_of_another_model():
    setting = Setting("uniform", tower=TOWER, decoder=DECODER).scaled(DEMO, CLIP_L)
    assert setting.tower == (Stage(9, 288, "even"),)
    assert setting.decoder == (Stage(6, 288, "last-token"), Stage(12, 144, "last-token"))
    assert scaled_tokens(7, DEMO, CLIP_L) == 28
    assert scaled_tokens(0, DEMO, CLIP_L) == 0  # a fixed exit stays one
    assert scaled_tokens(1, CLIP_L, DEMO) == 1


@given(
    st.lists(
        st.tuples(st.integers(1, 11), st.integers(0, 50)), max_size=4, unique_by=lambda p: p[0]
    )
)
def test_work_is_the_rows_of_all_layers(parts):
    layers = sorted(layer for layer, _ in parts)
    keeps = sorted({keep for _, keep in parts}, reverse=True)
    stages = [Stage(layer, keep) for layer, keep in zip(layers, keeps, strict=False)]
    assert in_order(stages)
    rows = np.full(12, 60)
    for number in range(12):
        for stage in stages:
            if number >= stage.layer:
                rows[number] = min(rows[number], stage.keep)
    assert work(stages, 12, 60) == pytest.approx(rows.sum() / (12 * 60))


def test_names_tell_settings_apart():
    settings = [*grid.methods(), grid.unpruned(), *grid.decoder_candidates()]
    settings += grid.tower_candidates(Setting("uniform"))
    assert len({setting.name for setting in settings}) == len(set(settings)) == len(settings)
    assert Setting("uniform", (), TOWER, DECODER).stages == (
        "tower 2:72:even, decoder 1:72:last-token 2:36:last-token"
    )


def test_budgets_that_stages_leave():
    assert Setting("uniform", tower=TOWER).allowed((144, 72, 36)) == [36]
    assert Setting("uniform", decoder=DECODER).allowed((144, 72, 36)) == [144]
    assert Setting("uniform").allowed((144, 7)) == [144, 7]


def test_every_method_and_every_stage_is_compared():
    assert {setting.pruner for setting in [*grid.methods(), grid.unpruned()]} == set(PRUNERS)
    ways = {stage.by for setting in grid.decoder_candidates() for stage in setting.decoder}
    assert set(DECODER_STAGES) - ways == {"given"}  # that one needs a second model
    tower = grid.tower_candidates(Setting("uniform"))
    assert {stage.by for setting in tower for stage in setting.tower} == set(TOWER_STAGES)
    # Of eleven layers 7:128 leaves 82 % of the work: nothing would choose it.
    reference = grid.tower_candidates(Setting("uniform"), Dimensions(256, 11, 30))
    assert {setting.tower[0].layer for setting in reference} == {2, 4}
    for setting in [*grid.decoder_candidates(), *tower]:
        scaled = setting.scaled(DEMO, CLIP_L)
        assert in_order(scaled.tower)
        assert in_order(scaled.decoder)


def test_the_best_of_each_way():
    def tried(by, plan, share, value):
        stages = tuple(replace(Stage.parse(part), by=by) for part in plan.split())
        return grid.Tried(Setting("uniform", tower=stages), share, value)

    a, b = tried("even", "2:72", 0.7, 0.9), tried("even", "1:72", 0.6, 0.9)
    c, d = tried("cls", "4:72", 0.95, 0.99), tried("cls", "2:72", 0.7, 0.95)
    assert grid.best_of_each([a, b, c, d]) == [c, b]
    assert grid.undominated([a, b, c, d]) == [c, d, b]


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda p: at(p[0] / 10, p[1] / 10)),
        max_size=12,
    )
)
def test_the_frontier_is_what_no_other_beats(some):
    def beaten(one):
        return any(
            (other.exact.value, -other.first_token) != (one.exact.value, -one.first_token)
            and other.exact.value >= one.exact.value
            and other.first_token <= one.first_token
            for other in some
        )

    assert set(points.pareto(some)) == {one for one in some if not beaten(one)}


def test_points_without_a_time_are_not_on_it():
    assert points.pareto([at(0.9, None), at(0.8, 0.5)]) == [at(0.8, 0.5)]


def test_the_table_has_a_row_a_setting_and_the_frontier_bold(tmp_path):
    some = [at(0.9, 0.5), at(0.8, 0.4, budget=7), at(0.85, 0.6, stages="tower 2:72:even")]
    some[2] = replace(some[2], p=0.03)
    lines = points.table(some).splitlines()
    assert lines[0] == "| method | stages | 25% (36) | 5% (7) |"
    assert lines[2] == "| One |  | **90.0 [88.0, 92.0], 0.50x** | **80.0 [78.0, 82.0], 0.40x** |"
    assert lines[3] == "| One | tower 2:72:even | 85.0 [83.0, 87.0] (0.03), 0.60x |  |"
    points.save(tmp_path / "points.json", some, {"questions": 3})
    assert points.load(tmp_path / "points.json") == some


def test_the_picture_is_small_and_shows_all():
    some = [
        at(0.5 + number / 40, 0.3 + number / 60, budget, f"Method {number}", stages)
        for number in range(len(COLOURS))
        for budget in (36, 7)
        for stages in ("", "tower 2:72:even")
    ]
    picture = draw(some)
    assert picture == draw(some)
    assert len(picture) < 200_000
    assert ET.fromstring(picture).tag.endswith("svg")


def test_graphs_serve_smaller_budgets_where_they_are_nested():
    budgets = (72, 36, 14, 7)
    assert [points.graph_budget(b, 144, True) for b in budgets] == [72, 36, 36, 36]
    assert [points.graph_budget(b, 144, False) for b in budgets] == list(budgets)


def test_training_and_test_questions_share_no_picture(tmp_path):
    bench = accuracy.Bench(tmp_path)
    sets = [bench.questions(split, 40) for split in ("train", "test")]
    contents = [
        {Path(question.images[0]).read_bytes() for question in data.questions} for data in sets
    ]
    assert len(contents[0]) == len(contents[1]) == 40
    assert not contents[0] & contents[1]
    assert bench.questions("test", 40).sha256 == sets[1].sha256  # not made again


def test_what_cannot_be_exported_is_left_out_and_says_why(tmp_path):
    impossible = Setting("uniform", tower=(Stage(99, 72, "even"),))
    bench = accuracy.Bench(tmp_path)
    refused = accuracy.export_all(bench, [(impossible, [72])], workers=1)
    assert "stage" in refused[impossible]
    assert accuracy.measure(bench, bench.questions("test", 1), [], 1) == []


def test_a_folder_that_is_taken_is_no_refusal_of_the_setting(tmp_path):
    bench, setting = accuracy.Bench(tmp_path), Setting("uniform")
    taken = bench.folder_of(setting) / "a file of somebody's"
    taken.parent.mkdir(parents=True)
    taken.touch()
    with pytest.raises(RequestError, match="is not empty"):
        accuracy.export_all(bench, [(setting, [72])], workers=1)
    assert not bench.refusal(setting).exists()


def test_calls_in_this_process_and_in_others():
    calls = [partial(abs, -1), partial(abs, -2)]
    assert sorted(in_processes(calls, workers=1)) == [1, 2]
    assert sorted(in_processes(calls, workers=2)) == [1, 2]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"), PRESETS["tiny-qwen2"])


def test_times_are_taken_once_and_kept(models, tmp_path):
    """Of artifacts as they are shipped, whose graphs are int8."""
    here, there = DEMO, models.dimensions
    assert there == Dimensions(36, 3, 2, 7)
    results = [
        Accuracy(grid.unpruned(), 144, estimate(0.9), None),
        Accuracy(Setting("uniform"), 36, estimate(0.8), Difference(estimate(-0.1), 1, 2, 0.5, 10)),
    ]
    of = [points.parts(result, here, there, grid.unpruned()) for result in results]
    assert of[1] == points.Parts(Setting("uniform"), 9, grid.unpruned(), 9)
    file = tmp_path / "times.json"
    watch = Stopwatch(file, models, grid.unpruned(), repeat=1, threads=1)
    timed = points.timed(results, of, watch, here)
    assert [one.budget for one in timed] == [144, 36]
    assert timed[1].p == 0.5
    assert all(one.first_token > 0 for one in timed)
    before = file.read_bytes()
    again = Stopwatch(file, models, grid.unpruned(), repeat=1, threads=1)
    assert points.timed(results, of, again, here) == timed
    assert file.read_bytes() == before
    graphs = Artifact.open(models.export_tower(Setting("uniform"), 9), allow_rejected=True)
    by_budget = graphs.manifest.vision.graphs
    assert {budget: list(names) for budget, names in by_budget.items()} == {9: ["int8"]}
    assert not graphs.manifest.passed  # nobody takes it for an artifact that was checked


class MadeUpModels:
    """Counts what would be built."""

    dimensions = CLIP_L

    def __init__(self):
        self.built = []

    def build_all(self, wanted, workers):
        self.built = list(wanted)

    def export_tower(self, setting, budget):
        raise AssertionError("never called")

    export_decoder = export_tower


class MadeUpTimes:
    """A tower takes its rows, a prefill its tokens."""

    machine = "a machine"

    def __init__(self, *_):
        pass

    def before_decoder(self, setting, budget):
        return Times(work(setting.tower, CLIP_L.tower, CLIP_L.tokens), 0, 400)

    def prefill(self, setting, visual):
        return Times(work(setting.decoder, CLIP_L.decoder, visual) * visual / 576, 0, 400)


@pytest.fixture
def made_up(monkeypatch):
    """Answers, artifacts and times: rows that [CLS] chooses in the tower answer best."""

    def measure(bench, data, wanted, workers):
        results = []
        for setting, budgets in wanted:
            for budget in budgets:
                value = 0.95 - 1 / budget - 0.05 * len(setting.decoder)
                ways = {stage.by for stage in setting.tower}
                value -= 0.2 * (1 - work(setting.tower, 5, 144)) * (1 if ways == {"cls"} else 2)
                stages = setting.tower or setting.decoder
                change = Difference(estimate(-0.1), 1, 2, 0.5, 10) if stages else None
                results.append(Accuracy(setting, budget, estimate(value), change))
        return results

    models = MadeUpModels()
    monkeypatch.setattr(accuracy, "measure", measure)
    monkeypatch.setattr(accuracy, "export_all", lambda *_: {Setting("random"): "it broke"})
    monkeypatch.setattr(program.models, "real", lambda *_: models)
    monkeypatch.setattr(program, "Stopwatch", MadeUpTimes)
    monkeypatch.setattr(program, "check_quiet", lambda _: "quiet")
    return models


def test_the_program_from_stages_to_the_page(made_up, tmp_path):
    page, plot, figures = (tmp_path / name for name in ("methods.md", "frontier.svg", "f.json"))
    page.write_text("before\n<!-- frontier -->\n<!-- /frontier -->\nafter\n")
    outputs = ["--page", str(page), "--plot", str(plot), "--figures", str(figures)]
    counts = ["--questions", "3", "--training", "2", "--build", str(tmp_path / "build")]
    result = CliRunner().invoke(program.main, [*outputs, *counts], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "left out: random: it broke" in result.output
    text = page.read_text()
    assert text.startswith("before\n<!-- frontier -->\nExact match in per cent on 3 held-out")
    assert "chosen on 2 questions" in text
    assert "quiet; a machine" in text
    assert "(frontier.svg)" in text
    assert len(plot.read_bytes()) < 200_000
    every = points.load(figures)
    plain = {one.name for one in every if not one.stages}
    assert plain == {setting.name for setting in [*grid.methods(), grid.unpruned()]}
    best = {one.stages for one in every if one.stages.startswith("tower") and ":cls" in one.stages}
    assert len(best) == 1  # every method is measured with the best one
    (stages,) = best
    assert len({one.method for one in every if one.stages == stages}) == len(plain) - 1
    ways = {one.stages.rpartition(":")[2] for one in every if one.stages.startswith("tower")}
    assert ways == set(TOWER_STAGES)
    assert any(one.stages.startswith("decoder") for one in every)
    assert made_up.built
    assert all(0 < one.first_token <= 1 for one in every)


def test_another_checkpoint_on_questions_of_its_own(
    made_up, tmp_path, tiny_checkpoint, monkeypatch
):
    """Budgets, stages and sizes are the same parts of its 36 tokens and 3 and 2 layers."""
    sets = {}
    for split in ("test", "training"):
        sets[split] = tmp_path / f"{split}.jsonl"
        row = '{"image": "one.png", "question": "?", "answers": ["yes"], "tags": []}\n'
        sets[split].write_text(row * (3 if split == "test" else 2))
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    asked, measure = [], accuracy.measure
    monkeypatch.setattr(
        accuracy,
        "measure",
        lambda bench, data, wanted, workers: (
            asked.append((bench, data.path, wanted)) or measure(bench, data, wanted, workers)
        ),
    )
    options = ["--model", str(tiny_checkpoint), "--parts", "accuracy", "--only", "uniform"]
    options += ["--test-set", str(sets["test"]), "--training-set", str(sets["training"])]
    options += ["--decoder-precision", "int8", "--build", str(tmp_path / "build")]
    result = CliRunner().invoke(program.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "on 3 held-out" in result.output
    assert "chosen on 2 questions" in result.output
    assert [path for _, path, _ in asked] == [sets["training"], sets["training"], sets["test"]]
    assert {bench.model for bench, _, _ in asked} == {str(tiny_checkpoint)}
    assert {bench.precision for bench, _, _ in asked} == {"int8"}
    wanted = {one: budgets for _, _, wanted in asked for one, budgets in wanted}
    assert wanted[Setting("uniform")] == [18, 9, 4, 2]
    assert wanted[grid.unpruned()] == [36]
    for setting in wanted:
        assert all(stage.layer < 3 and stage.keep <= 24 for stage in setting.tower)
        assert all(stage.layer < 2 and stage.keep <= 18 for stage in setting.decoder)
    assert "100% (36)" in result.output
    refused = CliRunner().invoke(program.main, options[:6])
    assert "no questions of the test split" in str(refused.exception)


def test_two_checkpoints_beside_each_other(tmp_path):
    def written(name, tokens, accuracy):
        whole = points.Point("none", "No pruning", "", tokens, tokens, estimate(0.8), None)
        staged = points.Point(
            "x", "SCOPE", "tower 2:72:even", tokens // 4, tokens, estimate(0.1), 0.5
        )
        some = [
            points.Point(method, method, "", budget, tokens, estimate(value), None)
            for method, values in accuracy.items()
            for budget, value in zip((tokens // 2, tokens // 4), values, strict=True)
        ]
        points.save(tmp_path / name, [whole, staged, *some], {})
        return str(tmp_path / name)

    demo = {
        "SCOPE": (0.8, 0.4),
        "DivPrune": (0.72, 0.6),
        "FasterVLM": (0.7, 0.5),
        "Alone": (0.1, 0.1),
    }
    files = [
        written("demo.json", 144, demo),
        written(
            "other.json",
            256,
            {"SCOPE": (0.6, 0.2), "DivPrune": (0.56, 0.4), "FasterVLM": (0.4, 0.1)},
        ),
    ]
    page = tmp_path / "page.md"
    page.write_text("<!-- beside -->\n<!-- /beside -->\n")
    options = [*files, "--names", "demo", "other", "--page", str(page)]
    options += ["--plot", str(tmp_path / "plot.svg")]
    result = CliRunner().invoke(beside.main, options, catch_exceptions=False)
    assert result.output.splitlines() == [
        "| method | demo, 50 % | other, 50 % | demo, 25 % | other, 25 % |",
        "|---|---|---|---|---|",
        "| DivPrune | 90.0 | 70.0 | 75.0 | 50.0 |",
        "| FasterVLM | 87.5 | 50.0 | 62.5 | 12.5 |",
        "| SCOPE | 100.0 | 75.0 | 50.0 | 25.0 |",
        "",
        # Of three ranks two are exchanged: 1 - 6 * 2 / (3 * 8).
        "Spearman's rank correlation of the 3 methods between the two: 1.00 at 50 %, 0.50 at 25 % "
        "of the tokens.",
    ]
    assert result.output.strip() in page.read_text()
    assert ET.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")


def test_parts_and_methods_that_are_asked_for(made_up, tmp_path):
    counts = ["--questions", "3", "--training", "2", "--build", str(tmp_path / "build")]
    arguments = [
        "--only",
        "uniform",
        "--stages",
        "none",
        "--parts",
        "accuracy",
        "--budgets",
        "36,7",
    ]
    result = CliRunner().invoke(program.main, [*counts, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "| 92.2 [90.2, 94.2] | 80.7 [78.7, 82.7] |" in result.output
    assert "**" not in result.output  # no time, no frontier
    assert not made_up.built
    assert CliRunner().invoke(program.main, ["--parts", "dancing"]).exit_code == 2
