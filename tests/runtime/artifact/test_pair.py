"""Pairs of decoders: they answer by default where memory allows both, never where a precision is
asked for, and the reason is stated."""

import dataclasses
import sys
from contextlib import closing

import pytest

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError
from pocketvlm.artifact import pair as pairs
from pocketvlm.artifact.manifest import Manifest
from pocketvlm.artifact.pair import choose_precision, free_memory, pair_bytes
from pocketvlm.cli.described import describe
from pocketvlm.decoders.sampling import Sampling
from pocketvlm_measure.cases import sweep
from support.pairs import PAIR, make_pair
from support.tiny_artifact import read_manifest, write_manifest


@pytest.fixture
def paired(artifact_dir):
    """An artifact whose graph bears two names, of which the second is the default."""
    return make_pair(artifact_dir)


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Lets the system state how many bytes are free, and a container how many of how many it has
    used."""

    def state(available, used=None, most=None):
        meminfo = tmp_path / "meminfo"
        meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:   {available // 1024} kB\n")
        monkeypatch.setattr(pairs, "MEMINFO", meminfo)
        groups = tmp_path / "groups"
        groups.mkdir(exist_ok=True)
        if most is not None:
            (groups / "memory.max").write_text(f"{most}\n")
            (groups / "memory.current").write_text(f"{used}\n")
        monkeypatch.setattr(pairs, "CGROUPS", groups)

    return state


def test_two_decoders_answer_where_both_are_free(paired, free):
    manifest = Artifact.open(paired).manifest
    needed = pair_bytes(manifest)
    for room, expected in ((needed + 1024, PAIR), (needed - 1024, "fp32"), (0, "fp32")):
        free(room)
        choice = choose_precision(manifest, "onnx")
        assert choice.precision == expected
        assert f"{room // 1024 * 1024 / 1e6:.0f} MB are free" in choice.reason
        with closing(VLM.load(paired)) as vlm:
            assert (vlm.decoder, vlm.precision_reason) == (f"onnx {expected}", choice.reason)
        assert {case.decoder_precision for case in sweep(manifest)} == {expected}


def test_a_limit_beats_what_is_free(paired, free):
    manifest = Artifact.open(paired).manifest
    enough = pair_bytes(manifest) // 10**6 + 1
    free(0)
    for limit, expected in ((enough, PAIR), (0, PAIR), (1, "fp32")):
        settings = EngineSettings(memory_limit=limit)
        with closing(VLM.load(paired, settings=settings)) as vlm:
            assert vlm.decoder == f"onnx {expected}"
        cases = sweep(manifest, memory_limit=limit)
        assert {case.decoder_precision for case in cases} == {expected}


def test_inspect_says_which_answer_here(paired, free):
    artifact = Artifact.open(paired)
    for room, expected in ((10**12, PAIR), (0, "fp32")):
        free(room)
        (line,) = [line for line in describe(artifact) if line.startswith("pair")]
        assert f"here {expected} answers" in line
        assert "MB are free" in line


@pytest.mark.parametrize("asked", ["fp32", "int8", PAIR, "fp32+int8"])
def test_what_is_asked_for_is_taken(paired, free, asked):
    free(10**12 if asked == "fp32" else 0)
    with closing(VLM.load(paired, decoder_precision=asked)) as vlm:
        assert (vlm.decoder, vlm.precision_reason) == (f"onnx {asked}", "asked for")


def test_a_pair_answers_as_its_halves_do(paired, free):
    """Both names are of one graph here, so that the cache that goes from one session to the other
    is what could differ."""
    free(10**12)
    sampling = Sampling(max_new_tokens=6)
    answers = []
    for asked in ("fp32", None):
        with closing(VLM.load(paired, decoder_precision=asked)) as vlm:
            answers.append(vlm.generate("What is it?", sampling=sampling).token_ids)
    assert answers[0] == answers[1]


def test_a_container_leaves_less(free):
    free(10**9)
    assert free_memory() == 10**9 // 1024 * 1024
    free(10**9, used=3 * 10**8, most=4 * 10**8)
    assert free_memory() == 10**8
    free(10**9, used=5 * 10**8, most=4 * 10**8)
    assert free_memory() == 0
    free(10**9, used=3 * 10**8, most="max")
    assert free_memory() == 10**9 // 1024 * 1024


def test_processes_share_what_is_free(paired, free):
    manifest = Artifact.open(paired).manifest
    free(3 * pair_bytes(manifest) + 4096)
    assert choose_precision(manifest, "onnx", processes=3).precision == PAIR
    shared = choose_precision(manifest, "onnx", processes=4)
    assert shared.precision == "fp32"
    assert "free for each of 4 processes" in shared.reason
    enough = pair_bytes(manifest) // 10**6 + 1
    assert choose_precision(manifest, "onnx", enough, processes=4).precision == PAIR


def test_where_nothing_is_stated_the_default_answers(paired, monkeypatch, tmp_path):
    monkeypatch.setattr(pairs, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(pairs, "CGROUPS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "psutil", None)  # not installed
    choice = choose_precision(Artifact.open(paired).manifest, "onnx")
    assert choice.precision == "fp32"
    assert "does not say" in choice.reason


def test_another_engine_has_no_pair(paired):
    manifest = Artifact.open(paired).manifest
    defaults = {**manifest.decoder.default_precisions, "llama.cpp": "q4_0"}
    decoder = dataclasses.replace(manifest.decoder, default_precisions=defaults)
    manifest = dataclasses.replace(manifest, decoder=decoder)
    assert choose_precision(manifest, "llama.cpp", 0).precision == "q4_0"
    assert choose_precision(manifest, "onnx", 0).precision == PAIR


@pytest.mark.parametrize(
    "pair", ["int8", "int8+int4", "int8+int8", "fp32+int8+fp32", "+fp32", "int8+", "+", "fp32 int8"]
)
def test_a_pair_that_is_none_is_refused(paired, pair):
    data = read_manifest(paired)
    data["decoder"]["pair"] = pair
    write_manifest(paired, data)
    with pytest.raises(PocketVLMError, match="pair") as refusal:
        Artifact.open(paired)
    assert "\n" not in str(refusal.value)


def test_a_pair_without_the_default_is_refused(paired):
    data = read_manifest(paired)
    data["decoder"]["graphs"]["fp16"] = data["decoder"]["graphs"]["fp32"]
    data["decoder"]["tables"]["fp16"] = "fp32"
    data["decoder"]["default_precisions"] = {"onnx": "fp16"}
    write_manifest(paired, data)
    with pytest.raises(PocketVLMError, match="one of them the default"):
        Artifact.open(paired)


def test_a_manifest_without_a_pair_has_no_such_field(artifact_dir):
    data = read_manifest(artifact_dir)
    assert "pair" not in Manifest.from_dict(data).to_dict()["decoder"]


@pytest.mark.parametrize("limit", [-1, 1.5, "4"])
def test_a_limit_is_a_number(limit):
    with pytest.raises(PocketVLMError):
        EngineSettings(memory_limit=limit)
