"""Every tool takes ``--help`` and does nothing else then."""

import re
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

TOOLS = Path(__file__).parents[2] / "tools"
# Run by `serve_clients` in environments of their own, with a file of what to ask.
CHILDREN = {"with_langchain", "with_llm", "with_openai"}
PROGRAMS = sorted(
    path.relative_to(TOOLS).with_suffix("").as_posix().replace("/", ".")
    for path in TOOLS.rglob("*.py")
    if '__name__ == "__main__"' in path.read_text("utf-8") and path.stem not in CHILDREN
)
# Cheap ones, which once did their work when they were asked for help.
ASKED = ["bare", "licences", "lock", "lock.sbom", "make_examples", "oldest", "promises"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_parses_its_arguments(name):
    source = (TOOLS / f"{name.replace('.', '/')}.py").read_text("utf-8")
    parsing = r"^@click\.(command|group)|= click\.Group\(|parse_(known_)?args\("
    assert re.search(parsing, source, re.MULTILINE)


@pytest.mark.parametrize("name", ASKED)
def test_help_is_printed(name):
    package = (TOOLS / name.replace(".", "/")).is_dir()
    main = import_module(f"{name}.__main__" if package else name).main
    assert isinstance(main, click.Command)
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")


@pytest.mark.parametrize("name", ["lock.install", "install_llama_cpp"])
def test_help_where_there_is_no_click_yet(name, monkeypatch, capsys):
    module = import_module(name)
    for doing in ("_pip", "read_lock"):
        monkeypatch.setattr(module, doing, lambda *_: pytest.fail("it does its work"))
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"]) if name == "lock.install" else module.main()
    assert capsys.readouterr().out.startswith("usage: ")
