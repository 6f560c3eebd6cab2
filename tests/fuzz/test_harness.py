"""The harness tells each kind of fault from sound inputs, goes on behind it, and has it again."""

import json

import pytest

from fuzz.harness import fuzz, supported
from fuzz.planted import FAULTS
from fuzz.targets import TARGETS

pytestmark = pytest.mark.skipif(not supported(), reason="the harness asks what Linux alone tells")
KINDS = {
    "accepted": ("accepted", ""),
    "refused": ("refused", "it is damaged: copy it again"),
    "traceback": ("traceback", "KeyError at planted.py"),
    "exit": ("traceback", "SystemExit"),
    "abort": ("crash", "SIGABRT"),
    "segfault": ("crash", "SIGSEGV"),
    "hang": ("hang", "planted.py"),
    "memory": ("memory", "MB"),
    "write": ("outside", "writes"),
    "read": ("outside", "reads"),
    "link": ("outside", "secret.json"),
    "native": ("outside", "touches 'secret.json'"),
    "change": ("outside", "its own folder was changed"),
    "process": ("outside", "starts a process"),
    "network": ("outside", "asks the network"),
    "lines": ("line", "several lines"),
    "surrogate": ("line", "cannot be printed"),
}


def test_every_fault_is_planted():
    assert set(KINDS) == set(FAULTS)


def test_each_kind_of_fault_is_told(tmp_path):
    """An input each, in one run: what it does follows from its number."""
    journal = tmp_path / "planted.jsonl"
    result = fuzz("fuzz.planted", len(FAULTS), journal=journal, hang=1.0)
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [row[0] for row in rows] == list(range(len(FAULTS)))
    for name, row in zip(FAULTS, rows, strict=True):
        outcome, words = KINDS[name]
        assert (row[1], words in row[4]) == (outcome, True), (name, row)
    assert result.counts.total() == len(FAULTS)
    assert len(result.findings) == len(FAULTS) - 2


def test_a_run_goes_on_where_it_was_cut_off(tmp_path):
    journal = tmp_path / "device.jsonl"
    whole = fuzz("device", 30, journal=journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:10]) + lines[10][:7])
    again = fuzz("device", 30, journal=journal)
    outcomes = [json.loads(line)[:2] for line in lines]
    assert [json.loads(line)[:2] for line in journal.read_text().splitlines()] == outcomes
    assert again.counts == whole.counts


def test_a_check_that_is_broken_is_noticed():
    """A manifest's names are followed wherever they lead."""
    result = fuzz("fuzz.broken", 120)
    assert {outcome for _, outcome, _ in result.findings} == {"outside"}
    assert fuzz("manifest", 5).counts.total() == 5  # the same without the break: test_fuzz.py


def test_targets_lie_in_modules_of_their_names():
    assert {name: f"fuzz.targets.{name}" for name in TARGETS} == TARGETS
