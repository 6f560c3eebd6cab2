"""Which decoders answer where none is asked for: said with the reason, kept by a run that
continues, and no matter of llama.cpp."""

import dataclasses
import json

import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import Artifact, cli
from pocketvlm.artifact import pair as pairs
from pocketvlm.artifact.pair import pair_bytes
from pocketvlm.errors import RequestError
from pocketvlm_measure.cases import leaves_choice
from pocketvlm_measure.evaluation.precision import settled_precision
from support.pairs import PAIR, make_pair


@pytest.fixture
def paired(artifact_dir):
    """An artifact with a pair of decoders."""
    return make_pair(artifact_dir)


@pytest.fixture
def needed(paired):
    return pair_bytes(Artifact.open(paired).manifest)


@pytest.fixture
def free(monkeypatch, tmp_path):
    """Lets the system state how many bytes are free."""

    def state(available):
        (tmp_path / "meminfo").write_text(f"MemAvailable: {available // 1024} kB\n")
        monkeypatch.setattr(pairs, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(pairs, "CGROUPS", tmp_path / "none")

    return state


@pytest.fixture
def evaluate(paired, tmp_path, monkeypatch):
    """Runs the command on one question; returns its result."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.png")
    row = {"image": "a.png", "question": "what?", "answers": ["x"]}
    (tmp_path / "set.jsonl").write_text(json.dumps(row))

    def call(*more):
        command = ["evaluate", paired, "--data", "set.jsonl", "--budget", 3, "--max-new-tokens", 2]
        return CliRunner().invoke(cli.main, [str(a) for a in (*command, *more)])

    return call


def answered(tmp_path):
    lines = (tmp_path / "answers-set-artifact.jsonl").read_text().splitlines()[1:]
    return [json.loads(line)["decoder_precision"] for line in lines]


def test_a_run_goes_on_in_the_precision_that_it_began_in(evaluate, free, needed, tmp_path):
    free(needed - 1024)
    result = evaluate()
    assert result.exit_code == 0, result.output
    assert f"decoder fp32: {PAIR} takes about" in result.stderr
    free(needed + 1024)
    result = evaluate("--resume")
    assert result.exit_code == 0, result.output
    assert "decoder fp32: as answers-set-artifact.jsonl was answered" in result.stderr
    assert answered(tmp_path) == ["fp32"]
    # What is asked for is asked, and nothing is said.
    result = evaluate("--resume", "--decoder-precision", "int8+fp32")
    assert (result.exit_code, "decoder" in result.stderr) == (0, False)
    assert answered(tmp_path) == ["fp32", PAIR]


def test_a_pairs_answers_are_not_asked_anew_where_memory_has_gone(evaluate, free, needed, tmp_path):
    free(needed + 1024)
    assert f"decoder {PAIR}: " in evaluate().stderr
    free(needed - 1024)
    result = evaluate("--resume")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert f"was answered in {PAIR}" in result.stderr
    assert f"--decoder-precision {PAIR}" in result.stderr
    for more in (["--decoder-precision", PAIR], ["--memory-limit", 0]):
        assert evaluate("--resume", *more).exit_code == 0
    assert answered(tmp_path) == [PAIR]


def test_workers_share_what_is_free_and_a_limit_is_each_ones(evaluate, paired, free, needed, board):
    free(2 * needed - 4096)
    manifest = Artifact.open(paired).manifest
    assert settled_precision(manifest, None, None, workers=1).precision == PAIR
    assert settled_precision(manifest, None, None, workers=2).precision == "fp32"
    few = board(memory_limit=needed // 10**6 - 1)
    result = evaluate("--target", few, "--answers", "b.jsonl")
    assert "are the memory limit: too little" in result.stderr
    much = ["--memory-limit", needed // 10**6 + 1, "--target", few]
    assert f"decoder {PAIR}: " in evaluate(*much, "--answers", "c.jsonl").stderr


def test_only_onnx_runtimes_decoder_may_be_two(paired):
    manifest = Artifact.open(paired).manifest
    for decoders in ((), ("onnx",), ("all",), ("llama.cpp", "onnx")):
        assert leaves_choice(manifest, decoders, ())
        assert not leaves_choice(manifest, decoders, ("fp32",))
    assert not leaves_choice(manifest, ("llama.cpp",), ())
    alone = dataclasses.replace(manifest, decoder=dataclasses.replace(manifest.decoder, pair=""))
    assert not leaves_choice(alone, (), ())


def test_a_profile_says_it_of_its_own_cases(paired, free, needed, monkeypatch):
    measured = []

    def measure(_artifact, cases, *_, **__):
        measured.extend(cases)
        raise RequestError("nothing is measured")

    monkeypatch.setattr("pocketvlm_measure.profiler.measure.profile", measure)
    free(needed + 1024)
    result = CliRunner().invoke(cli.main, ["profile", str(paired), "--budget", "3"])
    assert result.stderr.splitlines()[0].startswith(f"decoder {PAIR}: ")
    assert [case.decoder_precision for case in measured] == [PAIR]
    result = CliRunner().invoke(cli.main, ["profile", str(paired), "--decoder", "llama.cpp"])
    assert (result.exit_code, PAIR in result.stderr) == (1, False)
