"""Without the packages of the extra [measure] the runtime answers, and what measures names the
extra."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from PIL import Image

EXTRA = ("matplotlib", "psutil", "scipy")
# A finder in which the packages are not installed: neither as modules nor as distributions. Then
# each command of the list is run, and its exit code, output and messages are printed.
WITHOUT = """
import json, sys
from importlib.machinery import PathFinder

HIDDEN = set(json.loads(sys.argv[1]))

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context):
        return iter(()) if context.name in HIDDEN else super().find_distributions(context)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from click.testing import CliRunner
from pocketvlm.cli import main

for arguments in json.loads(sys.argv[2]):
    result = CliRunner().invoke(main, arguments, prog_name="pocketvlm", input="what?\\n")
    print(json.dumps([result.exit_code, result.stdout, result.stderr]))
assert not HIDDEN & set(sys.modules)
"""
MEASURING = {
    "evaluate": ["evaluate", "DIR", "--data", "set.jsonl"],
    "profile": ["profile", "DIR"],
    "tune": ["tune", "DIR", "--data", "set.jsonl"],
}


def commands_of(package):
    group = entry_points(group="pocketvlm.commands")
    return {entry.name for entry in group if entry.module.partition(".")[0] == package}


def run_without(hidden, *commands):
    words = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(hidden), json.dumps(words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_that_measures_says_what_to_install(tmp_path):
    assert {*MEASURING, "questions"} == commands_of("pocketvlm_measure")
    results = run_without(EXTRA, *MEASURING.values())
    for name, (exit_code, stdout, stderr) in zip(MEASURING, results, strict=True):
        assert (exit_code, stdout) == (1, "")
        assert stderr == (
            f"error: `pocketvlm {name}` needs more packages (matplotlib, psutil, scipy): "
            "pip install 'pocketvlm[measure]'\n"
        )


@pytest.mark.parametrize("package", EXTRA)
def test_a_single_missing_package_is_named(package):
    ((exit_code, _, stderr),) = run_without([package], MEASURING["profile"])
    assert (exit_code, f"needs more packages ({package}): " in stderr) == (1, True)


def test_questions_are_written_without_the_extra(tmp_path):
    (tmp_path / "1.jpg").touch()
    entry = {
        "imageId": "1",
        "question": "what?",
        "answer": "that",
        "types": {"structural": "query"},
    }
    (tmp_path / "gqa.json").write_text(json.dumps({"7": entry}))
    files = [tmp_path / "gqa.json", "--images", tmp_path, "-o", tmp_path / "set.jsonl"]
    ((exit_code, stdout, stderr),) = run_without(EXTRA, ["questions", "gqa", *files])
    assert (exit_code, stderr) == (0, "")
    assert "1 questions" in stdout


def test_help_works_without_the_extra():
    names = ["", *sorted(commands_of("pocketvlm_measure"))]
    results = run_without(EXTRA, *([name, "--help"] if name else ["--help"] for name in names))
    for name, (exit_code, stdout, stderr) in zip(names, results, strict=True):
        assert (exit_code, stderr) == (0, "")
        assert f"Usage: pocketvlm {name}" in stdout


def test_everything_else_works_without_the_extra(artifact_dir, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    image = ["--image", tmp_path / "photo.png"]
    commands = {
        "run": ["run", artifact_dir, *image, "--prompt", "what?", "--max-new-tokens", 2],
        "chat": ["chat", artifact_dir, *image, "--max-new-tokens", 2],
        "inspect": ["inspect", artifact_dir, *image, "--overlay", tmp_path / "kept.png"],
        "verify": ["verify", artifact_dir],
        "targets": ["targets"],
        # These have extras, or libraries, of their own.
        "serve": ["serve", "--help"],
        "web": ["web", "--help"],
    }
    assert set(commands) == commands_of("pocketvlm")
    for name, result in zip(commands, run_without(EXTRA, *commands.values()), strict=True):
        assert result[0] == 0, (name, result)
        assert result[1]


def test_the_measured_process_loads_nothing_of_the_extra(artifact_dir):
    """Its peak of memory is the answer's: one run through the very function that a job calls."""
    program = """
import json, sys
from pathlib import Path
from pocketvlm_measure.cases import Case
from pocketvlm_measure.profiler.once import answer_once
from pocketvlm_measure.profiler.questions import Question
case = Case(6, "onnx", "fp32", "fp32", threads=1)
answer_once(Path(sys.argv[1]), case, Question("what?", new_tokens=2), warmup=0)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    command = [sys.executable, "-c", program, str(artifact_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "onnxruntime" in loaded
    assert not loaded & {"matplotlib", "scipy", "torch", "transformers"}
