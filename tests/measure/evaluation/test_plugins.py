"""Metrics from other packages, as `pocketvlm evaluate --metric` takes them."""

import sys

import pytest
from click.testing import CliRunner

from pocketvlm import PocketVLMError
from pocketvlm.cli import main
from pocketvlm_measure.evaluation.metrics import METRICS
from support.packages import write_package

GOOD = """
from pocketvlm_measure.evaluation.metrics.base import MeanMetric

class Begins(MeanMetric):
    name = "begins"

    def score(self, answer, expected):
        return float(any(answer.startswith(text) for text in expected))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    def write(lines, source):
        folder = tmp_path / "site"
        write_package(
            folder, "pocketvlm-begins", {"pocketvlm.metrics": lines}, plugin_begins=source
        )
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "plugin_begins", raising=False)

    yield write
    sys.modules.pop("plugin_begins", None)


def test_a_metric_of_another_package(install):
    before = list(METRICS)
    install("begins = plugin_begins:Begins", GOOD)
    assert list(METRICS) == [*before, "begins"]
    assert len(METRICS) == len(before) + 1
    assert "plugin_begins" not in sys.modules
    assert METRICS["begins"].score("two dogs", ["two"]) == 1
    assert METRICS["exact"].score("two dogs", ["two"]) == 0
    with pytest.raises(KeyError):
        METRICS["ends"]


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("class Begins: pass", "it is not a class derived from"),
        (GOOD.replace("def score", "def scored"), "it does not say its score"),
        (GOOD.replace('"begins"', '"ends"'), "it calls itself 'ends'"),
        (f"{GOOD}    figures = (1,)\n", "its figures have no names"),
        (f"{GOOD}    def __init__(self): 1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_one_is_one_line_and_breaks_no_other(install, source, line):
    install("begins = plugin_begins:Begins", source)
    with pytest.raises(PocketVLMError) as refusal:
        METRICS["begins"]
    assert str(refusal.value).startswith("metric 'begins' of pocketvlm-begins 1.0 cannot be used (")
    assert line in str(refusal.value)
    assert METRICS["exact"].name == "exact"


def test_a_name_of_ours_cannot_be_taken(install, tmp_path):
    """Refused where it is asked for; as the default it is ours, so that what is wrong with the
    folder is found next."""
    install("exact = plugin_begins:Begins", GOOD)
    assert METRICS["exact"].__class__.__module__ == "pocketvlm_measure.evaluation.metrics.exact"
    asked = ["evaluate", str(tmp_path / "no artifact"), "--data", str(tmp_path / "q.jsonl")]
    refused = CliRunner().invoke(main, [*asked, "--metric", "exact"])
    assert "'exact' is PocketVLM's own, and pocketvlm-begins 1.0 registers it too" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "PocketVLM's own" not in CliRunner().invoke(main, asked).stderr
