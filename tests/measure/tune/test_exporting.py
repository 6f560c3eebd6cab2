"""Candidates of a checkpoint: exported when they are first measured, once, and in the time of the
tuning. The exporter here is a package that copies a tiny artifact and writes down what it made."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pocketvlm.artifact import MANIFEST_NAME
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm_measure.tune.exporter_process import ExporterProcess
from pocketvlm_measure.tune.exporting import (
    GROUP,
    NAME,
    Exporting,
    Exports,
    Offer,
)
from pocketvlm_measure.tune.source import Taken
from support.packages import write_package
from support.tiny_artifact import write_artifact

FAKE = """
import shutil
from pathlib import Path
from pocketvlm.errors import CheckpointError

HERE = Path(__file__).parent
CAPS = {}

def variant(method, budgets):
    return {
        "name": method, "folder": f"0123/{method}", "made_by": [("--pruner", method)],
        "budgets": budgets, "engines": ["onnx"],
        "vision_precisions": ["fp32"], "decoder_precisions": {"onnx": ["int8", "int4"]},
        "bytes": 3_000_000, "shared_bytes": 2_000_000, "gate_bytes": 4_000_000,
        "device_bytes": 7_000_000, "caps": CAPS, "least_caps": {"max_tiles": 2},
        "seconds": 30.0,
    }

def offer(model, **wishes):
    if model == "damaged":
        raise CheckpointError("it is damaged", advice="download it again")
    methods = wishes.get("methods", ("scope", "broken"))
    return {
        "model": model, "tokens": 36,
        "variants": [variant("none", [36])] + [variant(method, [18, 9]) for method in methods],
        "left_out": ["everything else"],
    }

def make(model, name, root, **wishes):
    with (HERE / "made.txt").open("a") as file:
        print(name, file=file)
    if name == "broken" or model == "unequal":
        raise CheckpointError(f"{name} differs", advice="look at it")
    folder = Path(root) / "0123" / name
    shutil.copytree(HERE / "artifact", folder)
    return str(folder)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the package; returns what it made so far when called."""
    site = tmp_path / "site"
    write_package(site, "tiny-exporter", {GROUP: f"{NAME} = tiny_exporter"}, tiny_exporter=FAKE)
    write_artifact(site / "artifact")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    made = site / "made.txt"
    return lambda: made.read_text().split() if made.exists() else []


@pytest.fixture
def process(installed):
    process = ExporterProcess()
    yield process
    process.close()


@pytest.fixture
def exports(process, tmp_path):
    return Exports(Offer.of("demo", {}, process), tmp_path / "cache", process)


class Recorded:
    """A source that notes what was measured when which folders were there."""

    pictures = np.zeros(3, dtype=np.int64)

    def __init__(self, exports):
        self.baseline, *self.candidates = exports.candidates()
        self.seen = []

    def clock(self):
        return 1.0

    def answer(self, candidates, questions, until):
        assert all((Path(one.folder) / MANIFEST_NAME).exists() for one in candidates)
        self.seen.append([one.made_by[0][1] for one in candidates])
        return {one: dict.fromkeys(questions, 1.0) for one in candidates}

    def turn(self, candidates, number, until):
        self.answer(candidates, [], until)
        return {one: Taken(5.0, None) for one in candidates}


def test_what_is_offered_is_said_before_anything_is_made(installed, exports):
    lines = list(exports.offer.announcement())
    assert "up to 3 exports" in lines[0]
    assert "about 1.5 minutes and 9 MB in all" in lines[0]  # 3 times 30 s; 2 + 4 shared, 3 times 1
    assert "--pruner scope: 18, 9 of 36 tokens, about 0.5 min, 1 MB" in "".join(lines)
    assert "2 MB, and 4 MB that only the gate reads" in lines[-2]
    assert lines[-1].strip() == "not tried: everything else"
    assert installed() == []


def test_pictures_of_a_size_of_their_own_have_tokens_of_their_own(exports):
    small = replace(exports.offer.variants[1], tokens=16)
    lines = list(replace(exports.offer, variants=[exports.offer.variants[0], small]).announcement())
    assert "--pruner none: 36 of 36 tokens" in lines[1]
    assert "--pruner scope: 18, 9 of 16 tokens" in lines[2]


def test_candidates_are_all_configurations_the_baseline_first(exports):
    candidates = exports.candidates()
    assert (candidates[0].case.budget, candidates[0].case.decoder_precision) == (36, "int8")
    assert candidates[0].made_by == (("--pruner", "none"),)
    pairs = {(one.case.budget, one.case.decoder_precision) for one in candidates}
    assert pairs == {(k, name) for k in (36, 18, 9) for name in ("int8", "int4")}
    assert len(candidates) == len(set(candidates)) == 10
    named = exports.candidates(decoders=["int8+int4"])
    assert {one.case.decoder_precision for one in named} == {"int8+int4"}


def test_smaller_pictures_need_no_further_export(exports):
    variant = replace(exports.offer.variants[1], caps={"max_tiles": 8}, least_caps={"max_tiles": 3})
    cases = list(variant.cases(2, providers=("openvino",)))
    assert [case.max_tiles for case in cases] == [None] * 4 + [4] * 4  # 2 is below the least
    assert {case.max_pixels for case in cases} == {None}
    assert {(case.threads, case.providers) for case in cases} == {(2, ("openvino",))}
    pixels = list(replace(variant, caps={"max_pixels": 400}, least_caps={}).cases())
    assert {case.max_pixels for case in pixels} == {None, 200, 100}


def test_each_is_exported_once_and_only_when_it_is_measured(installed, exports):
    inner = Recorded(exports)
    source = Exporting(inner, exports)
    assert (source.baseline, source.clock()) == (inner.baseline, 1.0)
    assert installed() == []
    source.answer([source.baseline], [0, 1], until=99)
    assert installed() == ["none"]
    scope = [one for one in source.candidates if one.made_by[0][1] == "scope"]
    assert len(source.turn([source.baseline, *scope], 0, until=99)) == 1 + len(scope)
    source.turn([source.baseline, *scope], 1, until=99)
    assert installed() == ["none", "scope"]
    # Another run, as after an interrupt: what is there is taken, and what is half there is not.
    again = Exports(exports.offer, exports.root, exports.process)
    assert again.prepare([source.baseline, *scope], 99) == [source.baseline, *scope]
    assert installed() == ["none", "scope"]


def test_what_cannot_be_exported_says_why_and_is_not_tried_again(installed, exports):
    source = Exporting(Recorded(exports), exports)
    broken = [one for one in source.candidates if one.made_by[0][1] == "broken"]
    for number in range(2):
        taken = source.turn([source.baseline, *broken], number, until=99)
        assert {taken[one] for one in broken} == {"broken differs: look at it"}
        assert isinstance(taken[source.baseline], Taken)
    assert source.answer(broken, [0], until=99) == {one: {} for one in broken}
    assert installed() == ["none", "broken"]


def test_no_export_begins_when_the_time_is_up(installed, exports):
    source = Exporting(Recorded(exports), exports)
    assert source.turn([source.baseline, *source.candidates], 0, until=1.0) == {}
    assert installed() == []


def test_without_the_unpruned_one_there_is_nothing_to_compare_with(process, tmp_path):
    exports = Exports(Offer.of("unequal", {}, process), tmp_path / "cache", process)
    with pytest.raises(PocketVLMError, match="none differs: look at it"):
        exports.prepare(exports.candidates(), 99)


def test_refusals_of_the_exporter_come_through(process):
    with pytest.raises(PocketVLMError, match="it is damaged: download it again"):
        Offer.of("damaged", {}, process)


def test_without_an_exporter_the_extra_is_named(tmp_path, monkeypatch):
    site = tmp_path / "site"
    write_package(site, "tiny-exporter", {GROUP: f"{NAME} = no_such_module"})
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    with pytest.raises(RequestError, match="needs the exporter") as caught:
        Offer.of("demo", {}, ExporterProcess())
    assert "pip install 'pocketvlm[export]'" in str(caught.value)
    assert "\n" not in str(caught.value)
