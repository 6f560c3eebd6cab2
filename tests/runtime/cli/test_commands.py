"""The commands run, inspect and verify: what they print, where, and with which exit code."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, EngineSettings, PocketVLMError, Sampling, cli, plugins
from pocketvlm.cli import reference
from pocketvlm.cli import verify as verify_module
from support.packages import write_package
from support.processes import heed_interrupts
from support.tiny_artifact import read_manifest, write_manifest


@pytest.fixture
def image_file(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pocketvlm(*arguments, **options):
    return CliRunner().invoke(
        cli.main, [str(a) for a in arguments], prog_name="pocketvlm", **options
    )


def assert_refused(result, reason, exit_code=1):
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr


def test_run_prints_the_answer_alone(artifact_dir, image_file):
    result = pocketvlm(
        "run", artifact_dir, "--image", image_file, "--prompt", "what?", "--max-new-tokens", 5
    )
    assert result.exit_code == 0, result.stderr
    answer = VLM.load(artifact_dir).generate(
        "what?", [image_file], sampling=Sampling(max_new_tokens=5)
    )
    assert result.stdout == answer.text + "\n"
    assert result.stderr == ""


def test_run_on_a_terminal_adds_what_the_answer_cost(artifact_dir, image_file):
    terminal, stderr = os.openpty()
    command = [
        "run",
        artifact_dir,
        "--image",
        image_file,
        "--prompt",
        "what?",
        "--max-new-tokens",
        5,
    ]
    process = start(*command, stderr=stderr)
    answer, _ = process.communicate(timeout=60)
    os.close(stderr)
    summary = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert answer.endswith("\n")
    assert re.match(
        r"onnx fp32: 6 of 16 visual tokens, first token after \d+ ms, then [\d.]+ tokens/s\r\n$",
        summary,
    )


def test_run_json_has_the_documented_fields(artifact_dir, image_file):
    options = [
        "--max-new-tokens",
        4,
        "--budget",
        3,
        "--temperature",
        0.8,
        "--top-p",
        0.9,
        "--seed",
        1,
        "--threads",
        1,
    ]
    result = pocketvlm(
        "run",
        artifact_dir,
        "--image",
        image_file,
        "--prompt",
        "-",
        "--json",
        *options,
        input="what?\n",
    )
    printed = json.loads(result.stdout)
    vlm = VLM.load(artifact_dir, budget=3, settings=EngineSettings(threads=1))
    answer = vlm.generate(
        "what?",
        [image_file],
        sampling=Sampling(max_new_tokens=4, temperature=0.8, top_p=0.9, seed=1),
    )
    assert printed["text"] == answer.text
    assert printed["token_ids"] == answer.token_ids
    assert printed["kept_indices"] == answer.kept_indices
    assert printed["visual_tokens"] == {"before": 16, "after": 3}
    assert printed["decoder"] == "onnx fp32"
    assert set(printed["timings_ms"]) == set(answer.timings_ms)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--budget", "0"], "budget 0: expected 1..12"),
        (["--budget", "-3"], "budget -3: expected 1..12"),
        (["--budget", "13"], "budget 13"),
        (["--budget", "17"], "budget 17: expected 1..12"),
        (["--image", "missing.png"], "missing.png"),
        (["--decoder", "llama.cpp"], "llama.cpp"),
        (["--vision-precision", "int8"], "int8"),
        (["--decoder-precision", "int4"], "int4"),
        (["--max-new-tokens", "1000"], "context of 160"),
        (["--threads", "0"], "threads=0"),
        (["--threads", "100000"], "threads=100000: expected 1.."),
        (["--image", "https://example.com/cat.jpg"], "nothing is fetched"),
    ],
)
def test_run_refuses_with_one_line_and_exit_code_1(artifact_dir, arguments, reason):
    assert_refused(pocketvlm("run", artifact_dir, "--prompt", "what?", *arguments), reason)


def test_a_prompt_that_is_no_text_is_refused(artifact_dir):
    assert_refused(pocketvlm("run", artifact_dir, "--prompt", "\udcff"), "valid Unicode")
    assert_refused(
        pocketvlm("run", artifact_dir, "--prompt", "-", input=b"what \xff?"), "not valid utf-8"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "d"],
        ["run", "d", "--prompt", "x", "--budget", "many"],
        ["no-such-command"],
        ["run", "--nope"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    assert pocketvlm(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["run", "inspect", "verify"])
def test_no_such_folder(tmp_path, command):
    prompt = ["--prompt", "x"] if command == "run" else []
    assert_refused(pocketvlm(command, tmp_path / "nowhere", *prompt), "no such folder")


def test_debug_gives_the_traceback_before_or_after_the_command(tmp_path):
    for arguments in (["--debug", "verify", tmp_path], ["verify", tmp_path, "--debug"]):
        result = pocketvlm(*arguments)
        assert isinstance(result.exception, PocketVLMError)
        assert result.exit_code == 1


def test_inspect_says_what_there_is(artifact_dir):
    text = pocketvlm("inspect", artifact_dir).stdout
    for expected in (
        "fastervlm",
        "6 (default), 12",
        "vision k=12 fp32",
        "decoder fp32",
        "passed against numpy",
    ):
        assert expected in text
    printed = json.loads(pocketvlm("inspect", artifact_dir, "--json").stdout)
    assert printed["pruning"]["budgets"] == [6, 12]
    assert printed["read_by"] == pocketvlm("--version").stdout.strip()
    graph = "onnx/embed_tokens.onnx"
    assert printed["graph_bytes"][graph] == (artifact_dir / graph).stat().st_size
    assert printed["bytes"] == sum(entry["bytes"] for entry in printed["files"].values())


GENERATION = {
    "processors": {"repetition_penalty": 3.0, "stop": ["\x1b]52;"]},
    "sampling": {"temperature": 1e-6, "top_k": 50},
    "not_applied": {"num_beams": 4},
}


def test_answers_follow_what_the_checkpoint_was_published_with(artifact_dir, image_file):
    def answered(*options):
        asked = ("--image", image_file, "--prompt", "what?", "--max-new-tokens", 9)
        result = pocketvlm("run", artifact_dir, *asked, "--json", *options)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["token_ids"]

    plain = answered()
    write_manifest(artifact_dir, read_manifest(artifact_dir) | {"generation": GENERATION})
    own = answered()
    assert own != plain
    assert answered("--repetition-penalty", 1) == plain
    assert answered("--repetition-penalty", 3) == own
    # At so small a temperature one token is left to draw from.
    assert answered("--sampling", "checkpoint") == own
    hot = ("--sampling", "checkpoint", "--temperature", 1e6, "--seed", 1)
    assert answered(*hot) == answered(*hot) != own
    assert pocketvlm("run", artifact_dir, "--prompt", "x", "--sampling", "no").exit_code == 2
    lines = pocketvlm("inspect", artifact_dir).stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    text = "\n".join(lines)
    for stated in ("repetition_penalty 3.0", "top_k 50 with --sampling checkpoint", "num_beams 4"):
        assert stated in text


def test_settings_of_a_newer_exporter_are_refused_where_they_would_be_left_out(artifact_dir):
    newer = {"processors": {"some_new_penalty": 2.0}}
    write_manifest(artifact_dir, read_manifest(artifact_dir) | {"generation": newer})
    refused = pocketvlm("run", artifact_dir, "--prompt", "x")
    assert_refused(refused, "some_new_penalty, which this pocketvlm lacks")


def test_inspect_marks_the_defaults_that_the_manifest_states(artifact_dir):
    data = read_manifest(artifact_dir)
    vision, decoder = data["vision"], data["decoder"]
    # First in their tables, and yet not the defaults.
    vision["graphs"] = {k: {"int8": g["fp32"]} | g for k, g in vision["graphs"].items()}
    decoder["graphs"] = {"int8": decoder["graphs"]["fp32"]} | decoder["graphs"]
    decoder["tables"] = {"int8": "fp32"} | decoder["tables"]
    write_manifest(artifact_dir, data)
    lines = pocketvlm("inspect", artifact_dir).stdout.splitlines()
    marked = [line.split("(default)")[0].split(None, 1)[1] for line in lines if "(default)" in line]
    assert [line.strip() for line in marked[1:]] == [
        "onnx",
        "vision k=12 fp32",
        "vision k=6 fp32",
        "decoder fp32",
    ]


def test_an_artifact_cannot_steer_the_terminal(artifact_dir):
    data = read_manifest(artifact_dir)
    data["source"] |= {"model": "good\x1b[2Jbad", "license": "MIT\r\n\u202egnp\x9b1m"}
    data["parity"]["vision"] = {"\x1b[31mred": "\x07"}
    write_manifest(artifact_dir, data)
    lines = pocketvlm("inspect", artifact_dir).stdout.split("\n")
    assert all(line.isprintable() for line in lines)
    assert "source     good[2Jbad (llava, licence MITgnp1m)" in lines
    data["decoder"] |= {"engines": ["onnx\x1b[2J"], "default_engine": "onnx\x1b[2J"}
    write_manifest(artifact_dir, data)
    refusal = pocketvlm("run", artifact_dir, "--prompt", "x", "--decoder", "none")
    assert_refused(refusal, "which has onnx[2J: choose another")


def test_text_that_the_console_lacks_is_replaced(artifact_dir):
    data = read_manifest(artifact_dir)
    data["source"] |= {
        "model": "modèle",
        "license": "木",
    }  # cp437, of older Windows consoles, has è but not 木
    write_manifest(artifact_dir, data)
    command = [sys.executable, "-m", "pocketvlm", "inspect", str(artifact_dir)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp437:strict", "PYTHONUTF8": "0"}
    result = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=120)
    assert "source     modèle (llava, licence ?)" in result.stdout.decode("cp437")


def test_inspect_shows_a_rejected_export_that_run_refuses(artifact_dir):
    data = read_manifest(artifact_dir)
    data["parity"]["passed"] = False
    write_manifest(artifact_dir, data)
    assert "FAILED" in pocketvlm("inspect", artifact_dir).stdout
    assert_refused(pocketvlm("run", artifact_dir, "--prompt", "x"), "parity")
    assert_refused(pocketvlm("verify", artifact_dir), "parity")


def test_the_overlay_shows_what_run_keeps(artifact_dir, image_file, tmp_path):
    overlay = tmp_path / "out" / "kept.png"
    overlay.parent.mkdir()
    arguments = [
        "inspect",
        artifact_dir,
        "--image",
        image_file,
        "--overlay",
        overlay,
        "--budget",
        4,
        "--json",
    ]
    printed = json.loads(pocketvlm(*arguments).stdout)
    answer = VLM.load(artifact_dir).generate(
        "?", [image_file], budget=4, sampling=Sampling(max_new_tokens=1)
    )
    assert [printed["kept_indices"]] == answer.kept_indices
    assert [path.name for path in overlay.parent.iterdir()] == ["kept.png"]
    with Image.open(overlay) as drawing:
        assert min(drawing.size) >= 512
        grey = np.ptp(np.asarray(drawing).astype(int), axis=2) == 0
    side = grey.shape[0] // 4
    dim_cells = [
        cell
        for cell in range(16)
        if grey[side * (cell // 4) + side // 2, side * (cell % 4) + side // 2]
    ]
    assert dim_cells == sorted(set(range(16)) - set(printed["kept_indices"]))


def test_an_overlay_that_cannot_be_written_leaves_nothing(artifact_dir, image_file, tmp_path):
    missing = tmp_path / "nowhere" / "kept.png"
    assert_refused(
        pocketvlm("inspect", artifact_dir, "--image", image_file, "--overlay", missing),
        "cannot be written",
    )
    assert not missing.parent.exists()
    assert pocketvlm("inspect", artifact_dir, "--image", image_file).exit_code == 2


def test_an_overlay_is_not_drawn_into_the_picture(artifact_dir, image_file):
    before = image_file.read_bytes()
    linked = image_file.with_name("same.png")
    linked.symlink_to(image_file)
    for overlay in (image_file, linked):
        refused = pocketvlm("inspect", artifact_dir, "--image", image_file, "--overlay", overlay)
        assert_refused(refused, "is the picture itself")
    assert image_file.read_bytes() == before


def test_verify_opens_everything(artifact_dir):
    assert "8 files and 4 graphs are whole" in pocketvlm("verify", artifact_dir).stdout
    printed = json.loads(pocketvlm("verify", artifact_dir, "--json").stdout)
    assert printed["parity"]["passed"]
    assert "onnx/vision_encoder.k12.onnx" in printed["graphs"]


def test_verify_reads_every_byte_even_of_files_known_before(artifact_dir):
    VLM.load(artifact_dir)
    template = artifact_dir / "chat_template.jinja"
    before = template.stat()
    template.write_bytes(template.read_bytes()[::-1])
    os.utime(template, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_refused(pocketvlm("verify", artifact_dir), "chat_template.jinja was altered")


def test_verify_against_asks_the_exporter(artifact_dir, monkeypatch):
    class ParityFailed(PocketVLMError):
        exit_code = 3

    def compare(folder, model):
        if model == "other":
            raise ParityFailed("features differ by 0.5, the bound is 0.0001: export again")
        return {"folder": folder.name, "kept_equal": True}

    reference = SimpleNamespace(load=lambda: compare)
    monkeypatch.setattr(verify_module, "entry_points", lambda group, name: [reference])
    printed = json.loads(pocketvlm("verify", artifact_dir, "--against", "same", "--json").stdout)
    assert printed["against"] == {"model": "same", "folder": "artifact", "kept_equal": True}
    assert_refused(
        pocketvlm("verify", artifact_dir, "--against", "other"), "features differ", exit_code=3
    )


def test_a_missing_exporter_is_named(artifact_dir, monkeypatch):
    broken = EntryPoint("transformers", "no_such_module:verify_against", "pocketvlm.references")
    monkeypatch.setattr(verify_module, "entry_points", lambda group, name: [broken])
    assert_refused(
        pocketvlm("verify", artifact_dir, "--against", "x"), "pip install 'pocketvlm[export]'"
    )
    export = EntryPoint("export", "pocketvlm_export.no_such_module:export", "pocketvlm.commands")
    monkeypatch.setattr(cli.main, "commands", {})
    monkeypatch.setattr(plugins, "entry_points", lambda group: [export])
    assert_refused(
        pocketvlm("export", "model", "-o", "x", "--budget", "4"), "pip install 'pocketvlm[export]'"
    )
    assert "export" in pocketvlm("--help").stdout


@pytest.mark.parametrize("value", ["pocketvlm.cli.run:no_such_command", "no_such_module:run"])
def test_a_broken_command_of_the_runtime_is_not_blamed_on_the_exporter(monkeypatch, value):
    monkeypatch.setattr(cli.main, "commands", {})
    broken = EntryPoint("run", value, "pocketvlm.commands")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    result = pocketvlm("run", "d", "--prompt", "x")
    assert_refused(result, "command 'run' of ")
    assert "cannot be used (" in result.stderr
    assert "pip install" not in result.output
    assert "run" in pocketvlm("--help").stdout
    assert "cannot be used" in pocketvlm("run", "--image", "x").stderr


def test_commands_of_other_packages(monkeypatch, tmp_path):
    source = "import click\n@click.command()\ndef greet(): click.echo('hello')\nno = 1\n"
    entries = {"pocketvlm.commands": "greet = plugin_greet:greet\nbad = plugin_greet:no"}
    write_package(tmp_path / "site", "pocketvlm-greet", entries, plugin_greet=source)
    twice = {"pocketvlm.commands": "greet = plugin_greet:greet"}
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(cli.main, "commands", {})
    assert pocketvlm("greet").stdout == "hello\n"
    assert_refused(pocketvlm("bad"), "command 'bad' of pocketvlm-greet 1.0 cannot be used (it is")
    assert "greet" in pocketvlm("--help").stdout
    assert pocketvlm("no-such-command").exit_code == 2
    write_package(tmp_path / "other", "pocketvlm-also", twice)
    monkeypatch.syspath_prepend(tmp_path / "other")
    monkeypatch.setattr(cli.main, "commands", {})
    assert_refused(pocketvlm("greet"), "registered by pocketvlm-also 1.0 and pocketvlm-greet 1.0")


def test_every_command_has_help_with_an_example():
    listing = pocketvlm("--help").stdout
    for name in ("run", "chat", "inspect", "verify", "targets", "export"):
        assert name in listing
        assert f"Example: pocketvlm {name} " in " ".join(pocketvlm(name, "--help").stdout.split())


def test_the_command_reference_is_placed_between_its_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{reference.BEGIN}\nstale\n{reference.END}\nafter\n")
    runner = CliRunner()
    stale = runner.invoke(reference.write_reference, [str(readme), "--check"])
    assert stale.exit_code == 1
    assert "stale" in stale.stderr
    assert runner.invoke(reference.write_reference, [str(readme)]).exit_code == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "--max-new-tokens" in text
    assert "## `pocketvlm inspect`" in text
    assert runner.invoke(reference.write_reference, [str(readme), "--check"]).exit_code == 0
    readme.write_text("no markers")
    assert runner.invoke(reference.write_reference, [str(readme)]).exit_code == 1


def test_ctrl_c_is_quiet_and_exits_with_130(monkeypatch):
    @click.command()
    def wait():
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.main.commands, "wait", wait)
    result = pocketvlm("wait")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def start(*arguments, stderr=subprocess.PIPE, stdin=None):
    command = [sys.executable, "-m", "pocketvlm", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=heed_interrupts,
    )


def test_sigint_stops_a_running_command_cleanly(artifact_dir):
    process = start("run", artifact_dir, "--prompt", "-", stdin=subprocess.PIPE)
    # More than a pipe holds: written once the command reads it, and waits for the rest.
    process.stdin.write("x" * (1 << 20))
    for _ in range(30):  # a signal between two reads is noticed after the next one only
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_reader_that_leaves_early_causes_no_traceback(artifact_dir):
    process = start("run", artifact_dir, "--prompt", "what?", "--max-new-tokens", "120")
    process.stdout.close()
    stderr = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in stderr
