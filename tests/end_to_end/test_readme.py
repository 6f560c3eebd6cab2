"""Every command that the README and the pages beside it show does what it says, in the order they
show them; one that several pages show runs once.

Blocks of `bash` are run. Those of `sh` are not, and `NOT_RUN` has the reasons.
"""

import doctest
import json
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from support.npm_archives import pinned_registry
from support.processes import heed_interrupts

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/concepts.md",
    "docs/by-the-question.md",
    "docs/api.md",
    "docs/evaluate.md",
    "docs/providers.md",
    "docs/tune.md",
    "docs/json-answers.md",
    "docs/web.md",
    "docs/serve.md",
)
# How commands in blocks of `sh` begin, and why no test runs them.
NOT_RUN = {
    "pocketvlm export llava-hf/": "28 GB from the Hub",
    "pocketvlm run llava-pocket ": "needs that export",
    "pocketvlm export LanguageBind/": "28 GB from the Hub",
    "pocketvlm run clips ": "needs that export",
    "pocketvlm inspect clips ": "needs that export",
    "pocketvlm chat demo-vlm ": "asks in a terminal: tests/runtime/cli/test_chat.py",
    "pocketvlm export demo -o demo-both ": "llama.cpp: tests/end_to_end/test_engines.py",
    "pocketvlm run demo-both ": "needs that export",
    "pocketvlm questions ": "gigabytes: tests/measure/evaluation/test_public.py",
    "pocketvlm verify demo-vlm --provider openvino": "OpenVINO's build has another ONNX Runtime",
    "pocketvlm export MODEL ": "names in the place of a checkpoint and photographs",
    "pocketvlm run DIR ": "needs that export",
    "pocketvlm inspect DIR ": "a name in the place of an artifact",
    "pocketvlm --version": "needs no model: tests/runtime/cli/test_release.py",
    "pocketvlm tune demo ": "ten minutes: tests/measure/tune",
    "pocketvlm export build/": "hours of measurements: tests/tools/test_benchmark.py",
    "pocketvlm profile build/": "hours of measurements",
}
TEXT = "\n".join((ROOT / page).read_text() for page in PAGES)
SERVED = (ROOT / "docs" / "serve.md").read_text()
COMMANDS = list(
    dict.fromkeys(
        re.findall(
            r"^(?:\$ )?((?:pocketvlm|python examples/).*)$",
            "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)),
            re.M,
        )
    )
)
PROGRAMS = list(dict.fromkeys(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(examples)
    (path / "build").mkdir()
    (path / "build" / "demo").symlink_to(path / "demo-vlm")  # in the place of `make demo`
    return path


def test_the_commands_run(folder, examples, monkeypatch, tmp_path):
    """All in this process: a new one for each would mostly import torch. The server, which does not
    end by itself, has a test of its own."""
    registry = pinned_registry(tmp_path, monkeypatch)  # npm's needs a network
    monkeypatch.chdir(folder)
    monkeypatch.setenv("POCKETVLM_BUILD", str(folder / "build"))
    monkeypatch.syspath_prepend(examples)
    monkeypatch.delitem(sys.modules, "demo_folder", raising=False)
    assert COMMANDS
    for command in COMMANDS:
        name, *words = shlex.split(command, comments=True)
        if name == "python":
            runpy.run_path(words[0], run_name="__main__")
            continue
        if words[0] == "serve":
            continue
        if words[0] == "web":
            words += ["--registry", str(registry)]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_the_server_answers_what_its_page_asks(folder):
    """`pocketvlm serve` in the background, at a free port, and every command of curl."""
    (command,) = re.findall(r"^pocketvlm (serve .*)$", SERVED, re.MULTILINE)
    asking = re.findall(r"```bash\n(curl .*?)```", SERVED, re.DOTALL)
    assert len(asking) == 3
    started = [sys.executable, "-c", "from pocketvlm.cli import main; main()"]
    server = subprocess.Popen(
        [*started, *shlex.split(command), "--port", "0"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    try:
        written = server.stderr.readline()
        address = re.search(r"http://\S+/", written)
        assert address, written
        answers = []
        for one in asking:
            line = one.replace("http://127.0.0.1:8080/", address[0])
            assert line != one
            done = subprocess.run(
                ["bash", "-ec", line], capture_output=True, text=True, cwd=folder, check=True
            )
            answers.append(done.stdout)
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
    models, answer, stream = answers
    assert [model["id"] for model in json.loads(models)["data"]] == ["demo-vlm"]
    (choice,) = json.loads(answer)["choices"]
    assert choice["message"]["pocketvlm"]["visual_tokens"] == 36
    assert stream.rstrip().endswith("data: [DONE]")
    assert '"error"' not in stream


def test_what_is_not_run_has_a_reason():
    shown = [
        line
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        for line in re.findall(r"^pocketvlm .*", block, re.MULTILINE)
    ]
    assert [line for line in shown if not line.startswith(tuple(NOT_RUN))] == []
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in shown)] == []


def test_the_programs_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert PROGRAMS
    for program in PROGRAMS:
        exec(compile(program, "README", "exec"), {"__name__": "__main__"})


def test_the_examples_of_the_reference_run(folder, monkeypatch):
    """Those of docs/api.md, each with names of its own, on the artifacts of the commands."""
    monkeypatch.chdir(folder)
    examples = re.findall(r"```pycon\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert examples
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=flags)
    for number, example in enumerate(examples):
        runner.run(parser.get_doctest(example, {}, f"example {number}", "docs/api.md", 0))
    assert not runner.summarize().failed


def test_the_command_reference_is_up_to_date():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pocketvlm.cli.reference",
            str(ROOT / "docs" / "commands.md"),
            "--check",
        ],
        check=False,
    )
    assert done.returncode == 0, "run: python -m pocketvlm.cli.reference docs/commands.md"
