"""`optimum-cli export pocketvlm`: what it takes is what `pocketvlm export` takes, refusals and exit
codes come through, and nothing of ours can break optimum's other commands.

What optimum itself does is tested where it lies in a folder of its own: `make optimum`.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.cli import main
from pocketvlm_export import optimum_cli

ROOT = Path(__file__).parents[2]
REGISTER = ROOT / "plugins" / "optimum" / "commands" / "register" / "register_pocketvlm.py"
APART = ROOT / "build" / "optimum"  # where `make optimum` installs both
EXPORT = main.get_command(click.Context(main), "export")
OPTIONS = [option for option in EXPORT.params if isinstance(option, click.Option)]
# A value of each option that takes one, where any text does not do.
VALUES = {
    "pruner_option": "alpha=0.5", "budget": "18,9", "tower_stage": "1:18:keys",
    "total_budget": "40", "max_pixels": "9000", "max_tiles": "2", "fixed_size": "56x84",
    "image_size": "28", "decoder_stage": "1:9", "decoder": "both", "vision_precision": "int8,fp32",
    "decoder_precision": "int4,fp32", "embed_precision": "fp16", "gguf_type": "q8_0,f16",
    "graph_format": "ort", "context": "100", "memory_limit": "5000", "media": "image",
    "fastv_layer": "2", "fastv_keep": "36", "target": "ios", "layout": "hf",
}  # fmt: skip


class StandIn:
    """As much of optimum's base class as calls a command."""

    def __init__(self, subparsers):
        self.parser = subparsers.add_parser(self.COMMAND.name, help=self.COMMAND.help)
        self.parse_args(self.parser)
        self.args = None


@pytest.fixture
def registered(monkeypatch):
    """Load the file that optimum finds, beside a stand-in for it; returns what it registers."""

    def load(**modules):
        for name in ("optimum", "optimum.commands", "optimum.commands.export"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        for name, contents in modules.items():
            module = types.ModuleType(name)
            vars(module).update(contents)
            full = "optimum.commands.base" if name == "base" else "optimum.commands.export.base"
            monkeypatch.setitem(sys.modules, full, module)
        spec = importlib.util.spec_from_file_location("register_pocketvlm", REGISTER)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.REGISTER_COMMANDS

    return load


@pytest.fixture
def command(registered):
    """The command on a parser with others beside it, as optimum sets it up."""
    info = types.SimpleNamespace
    base = {"BaseOptimumCLICommand": StandIn, "CommandInfo": info}
    ((kind, parent),) = registered(base=base, export={"ExportCommand": "its parent"})
    assert parent == "its parent"
    parser = argparse.ArgumentParser("optimum-cli")
    subparsers = parser.add_subparsers()
    subparsers.add_parser("onnx").set_defaults(ran="onnx")
    made = kind(subparsers)
    made.root = parser
    return made


def call(command, *words):
    """Run it as `optimum-cli export` does; returns the exit code."""

    def run():
        command.args = command.root.parse_args(["pocketvlm", *map(str, words)])
        command.run()

    with pytest.raises(SystemExit) as ended:
        run()
    return ended.value.code or 0


def test_every_option_of_the_command_is_there(command):
    text = " ".join(command.parser.format_help().split())
    for option in OPTIONS:
        if option.name == "output":
            continue
        for flag in (*option.opts, *option.secondary_opts):
            assert flag in text
        assert " ".join(option.help.split()[:4]) in text
    assert "-m MODEL" in text
    assert "{onnx,llama.cpp,both}" in text
    assert "[default: fp32]" in text


def as_click_reads(words):
    return EXPORT.make_context("export", list(words)).params


def flags_of(option):
    return [*option.opts, *option.secondary_opts] if option.is_flag else option.opts


TYPED = [
    (flag, None if option.is_flag else VALUES.get(option.name, "text"))
    for option in OPTIONS
    if option.name not in ("output", "debug")
    for flag in flags_of(option)
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(TYPED), max_size=5), st.booleans())
def test_what_is_typed_means_the_same(typed, joined):
    """In whatever order, repeated or not, with ``=`` or without."""
    words = []
    for flag, value in typed:
        long = flag.startswith("--")
        words += (
            [flag] if value is None else [f"{flag}={value}"] if joined and long else [flag, value]
        )
    parser = argparse.ArgumentParser()
    optimum_cli.add_options(parser)
    parsed = parser.parse_args([*words, "-m", "a model", "out"])
    _, *handed_on = optimum_cli.words(parsed)
    assert as_click_reads(handed_on) == as_click_reads(["a model", "-o", "out", *words])


def test_a_dry_run_is_that_of_the_command(command, tiny_checkpoint, tmp_path, capsys):
    words = ["--budget", "7", "--dry-run", "--json"]
    assert call(command, "-m", tiny_checkpoint, *words, tmp_path / "out") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["budgets"] == [7]
    assert not (tmp_path / "out").exists()


def test_refusals_and_exit_codes_come_through(command, tiny_checkpoint, tmp_path, capsys):
    asked = ["-m", tiny_checkpoint, tmp_path / "out"]
    assert call(command, *asked, "--budget", "999") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: budget 999 is outside 1..36")
    assert call(command, *asked, "--budget", "many") == 2
    assert "argument --budget: 'many' is not a comma-separated list" in capsys.readouterr().err
    assert call(command, *asked, "--fastv-layer", "2") == 2  # what click alone can say
    assert "--fastv-layer and --fastv-keep go together" in capsys.readouterr().err
    assert call(command, "-m", tiny_checkpoint) == 2  # no folder
    assert not (tmp_path / "out").exists()


def test_the_others_go_on_where_ours_cannot(registered, monkeypatch, capsys):
    def broken(_parser):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(optimum_cli, "add_options", broken)
    base = {"BaseOptimumCLICommand": StandIn, "CommandInfo": types.SimpleNamespace}
    ((kind, _),) = registered(base=base, export={"ExportCommand": None})
    parser = argparse.ArgumentParser("optimum-cli")
    subparsers = parser.add_subparsers()
    subparsers.add_parser("onnx").set_defaults(ran="onnx")
    command = kind(subparsers)
    command.root = parser
    assert parser.parse_args(["onnx"]).ran == "onnx"
    for words in ([], ["-m", "demo", "out"], ["--budget", "7"]):
        assert call(command, *words) == 1
        printed = capsys.readouterr().err
        assert printed == "error: pocketvlm cannot be used (two lines): install it again\n"


@pytest.mark.parametrize("modules", [{}, {"base": {}}, {"base": {"CommandInfo": 1}, "export": {}}])
def test_another_release_of_optimum_gets_no_command(registered, modules):
    assert registered(**modules) == []


def test_there_is_one_file_of_ours_in_optimums_namespace():
    files = list((ROOT / "plugins").rglob("*.py"))
    assert files == [REGISTER]


@pytest.fixture(scope="module")
def optimum_cli_of():
    """Run optimum's own program with what `make optimum` installed."""
    if not (APART / "optimum" / "commands" / "optimum_cli.py").is_file():
        pytest.skip("optimum is not in build/optimum: make optimum")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "optimum.commands.optimum_cli", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(APART)},
        )

    return run


def test_optimum_lists_it_and_exports_by_it(optimum_cli_of, tiny_checkpoint, tmp_path):
    listed = optimum_cli_of("export", "--help")
    assert listed.returncode == 0, listed.stderr
    assert "pocketvlm" in listed.stdout
    words = ["export", "pocketvlm", "-m", tiny_checkpoint, tmp_path / "out", "--pruner", "uniform"]
    refused = optimum_cli_of(*words, "--budget", "999")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
    done = optimum_cli_of(*words, "--budget", "7", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["passed"]
    assert (tmp_path / "out" / "pocketvlm.json").is_file()


def test_no_file_is_in_both_wheels(optimum_cli_of):
    records = {
        path.parent.name.partition("-")[0]: {
            line.partition(",")[0]
            for line in path.read_text().splitlines()
            if not line.startswith("../") and "__pycache__" not in line
        }
        for path in APART.glob("*.dist-info/RECORD")
    }
    assert records.keys() == {"optimum", "pocketvlm"}
    assert not records["optimum"] & records["pocketvlm"]
    ours = {name for name in records["pocketvlm"] if name.startswith("optimum/")}
    assert ours == {"optimum/commands/register/register_pocketvlm.py"}
