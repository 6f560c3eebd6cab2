"""The benchmark commands: what they take, where results go, and whose memory is reported."""

import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import page_section
from benchmark.__main__ import main
from benchmark.export_memory import Watch
from benchmark.options import NUMBERS, Section, Timing, into_section, timed
from make_checkpoint import PRESETS, build_config, make_tokenizer, weight_shapes


@pytest.fixture(autouse=True)
def tools_for_children(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "tools"))


def test_shared_options_arrive_as_one_value(tmp_path):
    taken = {}

    @click.command()
    @click.argument("name")
    @click.option("--budgets", type=NUMBERS)
    @timed
    @into_section("table")
    def command(**given):
        taken.update(given)

    page = tmp_path / "README.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    arguments = [
        "x",
        "--budgets",
        "4,2",
        "--repeat",
        "3",
        "--threads",
        "1",
        "--allow-busy",
        "--page",
        str(page),
    ]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert taken == {
        "name": "x",
        "budgets": (4, 2),
        "timing": Timing(repeat=3, threads=1, allow_busy=True),
        "section": Section(page, "table"),
    }
    taken["section"].publish("new")
    assert page.read_text() == "before\n<!-- table -->\nnew\n<!-- /table -->\nafter\n"
    assert CliRunner().invoke(command, ["x", "--budgets", "many"]).exit_code == 2


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "--page" in result.output


def test_a_file_goes_into_its_section_and_nowhere_else(tmp_path):
    page, file = tmp_path / "README.md", tmp_path / "table.md"
    page.write_text("<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\nstays\n<!-- /b -->\n")
    file.write_text("| new |\n\n")
    assert CliRunner().invoke(page_section.main, [str(page), "a", str(file)]).exit_code == 0
    assert page.read_text() == "<!-- a -->\n| new |\n<!-- /a -->\n<!-- b -->\nstays\n<!-- /b -->\n"
    assert isinstance(
        CliRunner().invoke(page_section.main, [str(page), "c", str(file)]).exception, ValueError
    )


def test_peak_memory_is_that_of_the_process_alone():
    """However large the process that starts it."""
    inner = "from benchmark.peak import peak_memory; print(peak_memory())"
    outer = f"""
import subprocess, sys
held = bytearray(300_000_000)
command = [sys.executable, "-c", {inner!r}]
print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
from benchmark.peak import peak_memory
print(peak_memory())
"""
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True)
    started, starting = map(float, done.stdout.split())
    assert started < 100
    assert 300 < starting < 400


def test_memory_is_booked_under_the_step_that_needed_it():
    script = """
import sys
print("ready", flush=True)
sys.stdin.readline()
held = bytearray(300_000_000)
print("held", flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        with Watch(process.pid) as watch:
            time.sleep(0.2)
            watch.begin("large")
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "held\n"
            time.sleep(0.2)
            print(file=process.stdin, flush=True)
    assert 0 < watch.peaks["start"].anonymous < 100e6
    assert 300e6 <= watch.peaks["large"].anonymous <= watch.peaks["large"].resident < 400e6


def test_large_preset_has_the_published_size():
    """The Hub counts 7,063,427,072 parameters in llava-hf/llava-1.5-7b-hf."""
    preset = PRESETS["clip-l-llama-7b"]
    shapes = weight_shapes(build_config(preset, make_tokenizer(preset.chat)))
    assert sum(shape.numel() for shape in shapes.values()) == 7_063_427_072


def test_export_memory(make_tiny, tmp_path):
    result = CliRunner().invoke(
        main, ["export-memory", str(make_tiny()), "-o", str(tmp_path / "a"), "--budget", "4"]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a" / "pocketvlm.json").is_file()
    for row in ("| decoder graph |", "| parity gate |", "LLaVA-1.5-7B (28.3 GB in float32)"):
        assert row in result.stdout


def test_selection_is_measured_for_the_methods_asked_for(tiny_checkpoint):
    arguments = [
        "selection",
        str(tiny_checkpoint),
        "--methods",
        "gprune",
        "--budget",
        "7",
        "--repeat",
        "1",
    ]
    result = CliRunner().invoke(main, [*arguments, "--allow-busy", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "36 patches, 7 kept, fp32" in result.output
    row = result.output.splitlines()[-1].split("|")
    assert row[1].strip() == "G-Prune (one graph per picture)"
    assert 0 < float(row[4].strip(" %")) < 100
    assert CliRunner().invoke(main, ["selection", "x", "--methods", "magic"]).exit_code == 2


def test_picking_is_ten_nodes_a_pick_and_a_loop_picks_the_same():
    arguments = ["picking", "--tokens", "30", "--picks", "3,7", "--repeat", "1", "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--allow-busy"])
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in row.split("|")] for row in result.stdout.splitlines()[-2:]]
    assert [(row[1], row[2], row[5]) for row in rows] == [("30", "3", "27"), ("30", "7", "67")]
    assert all(float(row[4]) > 0 for row in rows)
