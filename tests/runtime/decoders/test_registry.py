"""What follows from what the table of engines says of each, and not from their names."""

import dataclasses
import subprocess
import sys

import pytest

from pocketvlm import Artifact
from pocketvlm.decoders import ENGINES, is_installed
from pocketvlm.decoders.late import LateDecoder
from pocketvlm.selftest.checks import checks_of
from support.self_tests import give_self_test


def test_engines_are_known_before_any_is_imported():
    script = (
        "import sys; from pocketvlm.decoders import ENGINES; from pocketvlm.decoders.late import *;"
        "wanted = {each.decoder.partition(':')[0] for each in ENGINES.values()};"
        "wanted |= {each.needs for each in ENGINES.values()};"
        "print(sorted(wanted & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("maps", [True, False])
def test_what_maps_its_weights_is_not_opened_late(engine, maps, monkeypatch):
    monkeypatch.setitem(ENGINES, engine, dataclasses.replace(ENGINES[engine], maps_weights=maps))
    assert LateDecoder.suits(engine) != maps


def test_what_needs_nothing_is_installed(monkeypatch):
    for needs, expected in (("", True), ("json", True), ("no_such_module", False)):
        monkeypatch.setitem(ENGINES, "onnx", dataclasses.replace(ENGINES["onnx"], needs=needs))
        assert is_installed("onnx") == expected
    assert not is_installed("unheard-of")


@pytest.mark.parametrize("reads", [True, False])
def test_decoders_are_checked_where_providers_compute_them(artifact_dir, reads, monkeypatch):
    give_self_test(artifact_dir)
    altered = dataclasses.replace(ENGINES["onnx"], reads_providers=reads)
    monkeypatch.setitem(ENGINES, "onnx", altered)
    (checks,) = checks_of(Artifact.open(artifact_dir))
    assert [reader.engine for reader in checks.readers] == (["onnx"] if reads else [])


def test_a_pair_is_of_the_engine_that_reads_both(artifact_dir):
    spec = Artifact.open(artifact_dir).manifest.decoder
    graphs, tables = {"int8": "a", "int4": "b"}, {"int8": "fp32", "int4": "fp32"}
    spec = dataclasses.replace(spec, graphs=graphs, tables=tables, gguf={"q8_0": "c"})
    paired = dataclasses.replace(spec, pair="int8+int4")
    assert {name: paired.pair_of(name) for name in ENGINES} == {
        name: "int8+int4" if paired.by_engine[name] is graphs else "" for name in ENGINES
    }
    assert [spec.pair_of(name) for name in (*ENGINES, "unheard-of")] == ["", "", ""]
