"""The page of a tuning: its figures are those that were measured, it needs nothing else, and what
comes from outside is escaped."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pocketvlm_measure.tune import plots
from pocketvlm_measure.tune.report import to_html
from pocketvlm_measure.tune.tuning import TuneLimits
from support.tunings import candidate, evidence, tuning

HOSTILE = '<script>alert(1)</script>"&'


class Page(HTMLParser):
    """Tables as lists of rows, and every address that the page names."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.addresses, self.tags, self._cell = [], [], set(), None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self._cell)
            self._cell = None


@pytest.fixture
def made():
    return tuning(
        evidence(),
        evidence(candidate(72), "slower", "0.62 of the time, and 36 tokens hold", ratios=(0.62,)),
        evidence(candidate(9), "loses more", f"loses 9 points {HOSTILE}"),
        evidence(candidate(18), "refused", "no memory", ttft_ms=(), ratios=(), difference=None),
        chosen=0,
        limits=TuneLimits(max_loss=2, max_ttft=60),
    )


def test_its_figures_are_those_that_were_measured(made):
    page = Page(to_html(made, "demo", "Some CPU"))
    rows = {row[0]: dict(zip(page.tables[0][0], row, strict=True)) for row in page.tables[0][1:]}
    assert len(rows) == 5
    chosen = rows[f"★ {made.chosen.candidate}"]
    value, low, high = map(float, re.findall(r"[+-]?\d+\.\d", chosen["points against unpruned"]))
    difference = made.chosen.difference
    assert value == pytest.approx(100 * difference.value, abs=0.05)
    assert (low, high) == pytest.approx((100 * difference.low, 100 * difference.high), abs=0.05)
    assert float(chosen["first token, ms"]) == 41.5
    assert float(chosen["of unpruned"]) == pytest.approx(0.415, abs=0.006)
    assert float(chosen["peak, MB"]) == 231
    assert [float(part) for part in re.findall(r"[\d.]+", chosen["accuracy, %"])] == [
        96.2,
        93.0,
        99.0,
    ]
    reasons = {row[0]: row[1:] for row in page.tables[1][1:]}
    for one in (made.baseline, *made.evidence):
        assert reasons[str(one.candidate)] == [one.verdict, one.reason]


def test_where_all_are_pruned_nothing_is_called_unpruned(made):
    text = to_html(replace(made, pruned=True), "demo", "Some CPU")
    drawing = base64.b64decode(Page(text).addresses[0].partition(",")[2]).decode()
    assert "unpruned" not in text + drawing
    assert "points against the baseline" in text


def test_it_needs_nothing_else_and_runs_nothing(made):
    text = to_html(made, HOSTILE, HOSTILE, notes=[HOSTILE])
    page = Page(text)
    assert "script" not in page.tags
    assert page.addresses
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    drawing = base64.b64decode(page.addresses[0].partition(",")[2]).decode()
    assert "<script" not in drawing
    assert "alert(1)" in text  # shown, as text


def test_what_has_no_place_is_not_drawn(made):
    drawn = plots.drawn(made)
    assert {one.candidate.case.budget for one in drawn} == {144, 36, 72, 9}


def test_agreement_is_called_by_its_name(made):
    made = replace(made, figure="agreement with the unpruned model")
    text = to_html(made, "demo", "Some CPU")
    assert "agreement with the unpruned model, %" in text
    assert "accuracy" not in text.lower()


def test_a_tuning_that_chose_nothing_says_so_and_how_many_questions_would_do():
    undecided = evidence(verdict="likely holds", reason="too few questions", needed=900)
    text = to_html(tuning(undecided, time_up=True), "demo", "Some CPU")
    assert "Nothing that was tried satisfies the limits: at most 2 points less." in text
    assert "about 900 questions like these would" in text
    assert "the time was up" in text
