"""`pocketvlm targets`, and `--target` on commands that answer: a flag beats a target, a target
beats a default."""

import json
import tomllib

import click
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, EngineSettings, PocketVLMError, Sampling, cli
from pocketvlm.cli.target import load_target
from pocketvlm.errors import RequestError
from pocketvlm_targets import target_names
from support.tiny_artifact import make_dynamic, write_artifact


def pocketvlm(*arguments, **options):
    return CliRunner().invoke(
        cli.main, [str(a) for a in arguments], prog_name="pocketvlm", **options
    )


@pytest.fixture
def asked(monkeypatch):
    """What `VLM.load` is asked for; nothing is loaded."""
    options = {}

    def load(directory, **given):
        options.update(given)
        raise PocketVLMError("looked at")

    monkeypatch.setattr(VLM, "load", load)
    return options


def test_the_list():
    result = pocketvlm("targets")
    assert result.exit_code == 0
    for line, name in zip(result.stdout.splitlines(), target_names(), strict=True):
        assert line.split(None, 1) == [name, load_target(name).description]
    assert list(json.loads(pocketvlm("targets", "--json").stdout)["targets"]) == list(
        target_names()
    )


@pytest.mark.parametrize("name", target_names())
def test_what_is_shown_is_a_target_again(name, tmp_path):
    toml = pocketvlm("targets", name).stdout
    (tmp_path / "copy.toml").write_text(toml)
    original, copy = load_target(name), load_target(tmp_path / "copy.toml")
    assert copy.settings() == original.settings()
    assert copy.reasons == original.reasons
    facts = json.loads(pocketvlm("targets", name, "--json").stdout)
    assert {key: entry["value"] for key, entry in facts["settings"].items()} | {
        "description": facts["description"]
    } == tomllib.loads(toml)
    assert {key: entry["reason"] for key, entry in facts["settings"].items()} == original.reasons


@pytest.mark.parametrize("command", [["targets"], ["run", "nowhere", "--prompt", "x", "--target"]])
def test_a_bad_target_is_one_line(board, command):
    path = board(threads="two")
    result = pocketvlm(*command, path)
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"error: {path}: threads is 'two': expected a whole number from 1 to 10000000\n"
    )
    result = pocketvlm(*command, "no-such-device")
    assert result.exit_code == 1
    assert "choose from android-arm64" in result.stderr


def test_a_bad_target_keeps_its_fields(board):
    with pytest.raises(RequestError) as caught:
        load_target(path := board(threads="two"))
    assert caught.value.to_dict() == {
        "class": "RequestError",
        "found": f"{path}: threads is 'two'",
        "expected": "a whole number from 1 to 10000000",
        "advice": "",
        "setting": "target",
    }


@pytest.mark.parametrize("command", [["run", "d", "--prompt", "x"], ["chat", "d"]])
def test_a_flag_beats_a_target_and_a_target_a_default(asked, board, command):
    path = board(
        budget=[5, 3],
        decoder="onnx",
        vision_precision=["int8", "fp32"],
        decoder_precision=["int4"],
        threads=3,
        context=99,
        memory_limit=1000,
    )
    target = {
        "budget": 5,
        "decoder": "onnx",
        "vision_precision": "int8",
        "decoder_precision": "int4",
    }
    target |= {"context": 99, "max_pixels": None, "max_tiles": None, "feature_cache": None}
    prepack = command[0] != "run"
    target["once"] = not prepack
    assert "looked at" in pocketvlm(*command, "--target", path).stderr
    within = {"prepack": prepack, "memory_limit": 1000}
    assert asked == target | {"settings": EngineSettings(threads=3, **within)}
    flags = ["--budget", 2, "--vision-precision", "fp16", "--threads", 1]
    pocketvlm(*command, *flags, "--target", path)
    typed = {"budget": 2, "vision_precision": "fp16"}
    assert asked == target | typed | {"settings": EngineSettings(threads=1, **within)}
    pocketvlm(*command)
    assert asked.pop("settings") == EngineSettings(prepack=prepack)
    assert asked.pop("once") is not prepack
    assert set(asked.values()) == {None}


def test_precisions_of_one_engine_are_not_asked_of_another(asked, board):
    path = board(decoder="both", decoder_precision=["int4"], gguf_type=["q8_0"])
    for engine, precision in {None: "int4", "onnx": "int4", "llama.cpp": "q8_0"}.items():
        flag = [] if engine is None else ["--decoder", engine]
        pocketvlm("run", "d", "--prompt", "x", "--target", path, *flag)
        assert (asked["decoder"], asked["decoder_precision"]) == (engine, precision)


def test_of_several_precisions_the_artifact_knows_which_answer(asked, board):
    path = board(decoder="onnx", decoder_precision=["int4", "int8"], memory_limit=900)
    pocketvlm("run", "d", "--prompt", "x", "--target", path)
    assert asked["decoder_precision"] is None
    assert asked["settings"].memory_limit == 900
    pocketvlm("run", "d", "--prompt", "x", "--target", path, "--decoder-precision", "int4")
    assert asked["decoder_precision"] == "int4"


def test_profile_measures_what_the_target_lists(artifact_dir, board, monkeypatch):
    options = {}

    def sweep(manifest, **asked):
        options.update(asked)
        raise PocketVLMError("looked at")

    monkeypatch.setattr("pocketvlm_measure.cases.sweep", sweep)
    path = board(
        budget=[5, 3],
        decoder="both",
        decoder_precision=["int4"],
        gguf_type=["q8_0"],
        threads=3,
        context=99,
    )
    result = pocketvlm("profile", artifact_dir, "--target", path)
    assert "looked at" in result.stderr, result.output
    assert tuple(options["budgets"]) == (5, 3)
    assert options["decoders"] == ("onnx", "llama.cpp")
    assert options["decoder_precisions"] == ("int4", "q8_0")
    assert (options["vision_precisions"], options["threads"], options["context"]) == ((), (3,), 99)
    pocketvlm(
        "profile",
        artifact_dir,
        "--target",
        path,
        "--budget",
        "2,1",
        "--threads",
        "1",
        "--decoder",
        "onnx",
    )
    assert (tuple(options["budgets"]), options["threads"], options["decoders"]) == (
        (2, 1),
        (1,),
        ("onnx",),
    )


def test_evaluate_asks_what_the_target_lists(artifact_dir, board, tmp_path):
    (tmp_path / "set.jsonl").write_text('{"question": "what?", "answers": ["that"]}\n')
    path = board(budget=[3], context=99, memory_limit=1000, threads=1)
    result = pocketvlm(
        *(
            "evaluate",
            artifact_dir,
            "--data",
            tmp_path / "set.jsonl",
            "--target",
            path,
            "--max-new-tokens",
            2,
        ),
        *("--answers", tmp_path / "answers.jsonl", "--json", tmp_path / "scores.json"),
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(row) for row in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {row["budget"] for row in rows if "budget" in row} == {3}


def test_the_answer_is_the_targets(artifact_dir, board):
    path = board(budget=[3], threads=1, context=60, vision_precision=["fp32"])
    result = pocketvlm(
        "run", artifact_dir, "--prompt", "what?", "--json", "--max-new-tokens", 3, "--target", path
    )
    expected = VLM.load(artifact_dir, budget=3).generate(
        "what?", sampling=Sampling(max_new_tokens=3)
    )
    assert json.loads(result.stdout)["token_ids"] == expected.token_ids
    result = pocketvlm(
        "run", artifact_dir, "--prompt", "what?", "--max-new-tokens", 70, "--target", path
    )
    assert "context of 60" in result.stderr


def test_what_the_artifact_lacks_is_refused(artifact_dir, board):
    path = board(vision_precision=["int8"], threads=1)
    result = pocketvlm("run", artifact_dir, "--prompt", "what?", "--target", path)
    assert result.exit_code == 1
    assert "no precision 'int8'" in result.stderr
    assert result.stderr.endswith(f"(target {path} says so: --vision-precision would beat it)\n")
    typed = pocketvlm(
        "run", artifact_dir, "--prompt", "what?", "--target", path, "--vision-precision", "int4"
    )
    assert "no precision 'int4'" in typed.stderr
    assert "says so" not in typed.stderr


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("budget", [17], "budget 17: expected 1..12"),
        ("decoder", "llama.cpp", "engine 'llama.cpp' is not in this artifact"),
        ("vision_precision", ["int8"], "has no precision 'int8'"),
        ("decoder_precision", ["int8"], "has no precision 'int8'"),
        ("threads", 1_000_000, "threads=1000000"),
        ("context", 20, "context of 20"),
    ],
)
def test_a_refused_value_names_the_target_and_the_flag_that_beats_it(
    artifact_dir, board, key, value, reason
):
    path = board(**{key: value})
    result = pocketvlm("run", artifact_dir, "--prompt", "what?", "--target", path)
    flag = f"--{key.replace('_', '-')}"
    assert result.exit_code == 1
    assert reason in result.stderr
    assert result.stderr.endswith(f"(target {path} says so: {flag} would beat it)\n")
    typed = value[0] if isinstance(value, list) else value
    for order in (["--target", path, flag, typed], [flag, typed, "--target", path]):
        beaten = pocketvlm("run", artifact_dir, "--prompt", "what?", *order)
        assert beaten.exit_code == 1
        assert reason in beaten.stderr
        assert "says so" not in beaten.stderr


def test_a_refusal_of_what_was_typed_is_not_the_targets(artifact_dir, board):
    path = board(threads=1, vision_precision=["fp32"])  # "1" and "fp32" are in the refusals below
    for flag in (["--budget", 0], ["--decoder-precision", "fp32+int8"], ["--top-p", 1.5]):
        result = pocketvlm("run", artifact_dir, "--prompt", "what?", "--target", path, *flag)
        assert result.exit_code == 1
        assert "says so" not in result.stderr


@pytest.mark.parametrize(
    ("key", "value", "setting", "note"),
    [
        ("format", "ort", "format", ": --format would beat it"),
        ("format", "ort", "graph_format", ": --format would beat it"),  # its parameter's name
        ("portable", True, "portable", ""),  # which no flag undoes
    ],
)
def test_an_exports_refusal_names_the_target_too(
    board, tmp_path, monkeypatch, key, value, setting, note
):
    def prepare(*_):
        raise RequestError("that", advice="do this", setting=setting)

    monkeypatch.setattr("pocketvlm_export.pipeline.prepare", prepare)
    path = board(**{key: value})
    result = pocketvlm("export", "demo", "-o", tmp_path / "out", "--target", path)
    assert result.stderr == f"error: that: do this (target {path} says so{note})\n"
    assert result.exit_code == 1


def test_an_option_refuses_a_targets_value_as_it_refuses_a_typed_one(artifact_dir, board):
    path = board(memory_limit=5)
    option = next(
        option
        for option in cli.main.get_command(None, "profile").params
        if option.name == "memory_limit"
    )
    before, option.type = option.type, click.IntRange(10)
    try:
        result = pocketvlm("profile", artifact_dir, "--target", path)
    finally:
        option.type = before
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {path}: memory_limit: 5 is not in the range x>=10: change it or give "
        "--memory-limit\n"
    )


def test_a_key_that_a_command_lacks_is_refused(artifact_dir, board):
    command = cli.main.get_command(None, "profile")
    before = list(command.params)
    command.params = [option for option in before if option.name != "memory_limit"]
    try:
        result = pocketvlm("profile", artifact_dir, "--target", board(memory_limit=5))
    finally:
        command.params = before
    assert result.exit_code == 1
    assert "memory_limit is not for this version's `profile`: leave it out" in result.stderr


def test_help_after_a_target_needs_no_value_of_it(board):
    path = board(decoder="both", decoder_precision=["int4"], gguf_type=["q8_0"], budget=[5])
    for command in ("run", "chat", "profile", "evaluate", "export"):
        result = pocketvlm(command, "--target", path, "--help")
        assert result.exit_code == 0, result.output


def test_a_shorter_context(artifact_dir):
    assert VLM.load(artifact_dir, context=10_000).parts.decoder.context == 160
    with pytest.raises(PocketVLMError, match="context of 20"):
        VLM.load(artifact_dir, context=20).generate("what?", sampling=Sampling(max_new_tokens=64))
    with pytest.raises(PocketVLMError, match="at least 1"):
        VLM.load(artifact_dir, context=0)


def test_a_targets_caps_are_taken_as_far_as_the_artifact_has_them(asked, board, tmp_path):
    write_artifact(tmp_path / "plain", budgets=(6,))
    weights = write_artifact(tmp_path / "any", budgets=(6,))
    make_dynamic(tmp_path / "any", weights, 6, 24)  # 384 pixels
    for folder, most, expected in (("any", 128, 128), ("any", 9999, 384), ("plain", 128, None)):
        path = board(max_pixels=most, max_tiles=2)
        for command in (["run", tmp_path / folder, "--prompt", "x"], ["chat", tmp_path / folder]):
            assert "looked at" in pocketvlm(*command, "--target", path).stderr
            assert (asked["max_pixels"], asked["max_tiles"]) == (expected, None)
            pocketvlm(*command, "--target", path, "--max-pixels", 64)
            assert asked["max_pixels"] == 64  # typed: the artifact refuses what it has not
