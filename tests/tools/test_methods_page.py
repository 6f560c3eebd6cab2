"""docs/methods.md has every method and stage that there is, with its paper, and the demo's figures
as they were measured."""

import json
from pathlib import Path

import pytest

from methods_page.__main__ import BUDGETS, sections
from methods_page.elsewhere import ELSEWHERE
from methods_page.field import PRUNERS, STAGES
from methods_page.stated import SOURCES
from page_section import replace_section
from pocketvlm_export import decoder_stages, pruning, tower_stages

ROOT = Path(__file__).parents[2]
PAGE, FIGURES = ROOT / "docs" / "methods.md", ROOT / "docs" / "data" / "demo-accuracy.json"


@pytest.fixture(scope="module")
def figures():
    return json.loads(FIGURES.read_text())["methods"]


def entries(methods):
    named = {}
    for method in methods:
        named.setdefault(method.name, []).append(method)
    return named


def links(text):
    return {part.partition(")")[0] for part in text.split("](")[1:]}


def test_the_page_is_what_is_written_into_it(figures, tmp_path):
    """Else: PYTHONPATH=tools python -m methods_page."""
    copy = tmp_path / "methods.md"
    copy.write_text(PAGE.read_text())
    for name, text in sections(figures).items():
        replace_section(copy, name, text)
    assert copy.read_text() == PAGE.read_text()


@pytest.mark.parametrize("name", pruning.PRUNERS)
def test_every_method_is_on_the_page(name):
    pruner = pruning.find_pruner(name)
    (method,) = entries(PRUNERS)[name]
    assert f"`--pruner {name}`" in method.here
    assert links(pruner.paper) <= {method.link}
    if pruner.prunes:
        assert method.nested == pruner.nested
    assert method.link in PAGE.read_text()


@pytest.mark.parametrize("by", decoder_stages.DECODER_STAGES)
def test_every_stage_of_the_decoder_is_on_the_page(by):
    paper = links(decoder_stages.find_ranking(by).paper)
    assert paper <= {method.link for method in entries(STAGES)[by]}


@pytest.mark.parametrize("by", tower_stages.TOWER_STAGES)
def test_every_stage_of_the_tower_is_on_the_page(by):
    (method,) = entries(STAGES)[by]
    assert f":{by}`" in method.here
    assert links(tower_stages.find_criterion(by).paper) <= {method.link}


def test_figures_are_those_that_were_measured(figures):
    rows = sections(figures)["pruners"].splitlines()
    (row,) = [row for row in rows if "| `--pruner divprune` |" in row]
    ours = [f"{figures['divprune'][budget][0]:.1f}" for budget in BUDGETS]
    assert row.endswith(f"| {'/'.join(ours)} |")
    measured = {method.figures for method in (*PRUNERS, *STAGES) if method.figures}
    assert set(figures) <= measured


def test_what_was_published_names_its_source():
    for method in (*PRUNERS, *STAGES, *ELSEWHERE):
        assert all(published.source in SOURCES for published in method.published)
        assert not method.remark or "(" not in method.remark or method.remark[-2] in SOURCES
        assert method.link.startswith("https://") or not method.published


def test_published_figures_are_percentages_that_fall_with_the_tokens():
    for method in (*PRUNERS, *STAGES, *ELSEWHERE):
        for published in method.published:
            tokens, values = list(published.kept), list(published.kept.values())
            assert tokens == sorted(tokens, reverse=True)
            assert values == sorted(values, reverse=True)
            assert all(50 < value < 101 for value in values)
