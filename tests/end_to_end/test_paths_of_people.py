"""``~`` means a home wherever a path is taken, and ``~name`` that is nobody's ends in one line."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Artifact, PocketVLMError, cli
from pocketvlm.cli.lists import PATH
from pocketvlm.cli.target import load_target
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.checkpoint import locate
from pocketvlm_measure.evaluation.media import source_of
from pocketvlm_measure.evaluation.questions import read_questions
from support.tiny_artifact import write_artifact

NOBODY = "~nobody-of-this-name/p.png"
COMMANDS = cli.main.list_commands(click.Context(cli.main))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with an artifact, a picture, a target and a question set."""
    home = tmp_path_factory.mktemp("home")
    write_artifact(home / "artifact")
    Image.fromarray(np.full((8, 9, 3), 100, dtype=np.uint8)).save(home / "p.png")
    (home / "board.toml").write_text('description = "a board"\nthreads = 1\n')
    row = {"image": "~/p.png", "question": "what?", "answers": ["red"]}
    (home / "set.jsonl").write_text(json.dumps(row) + "\n")
    return home


@pytest.fixture(autouse=True)
def at_home(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)


def pocketvlm(*arguments, lines=None):
    given = "".join(f"{line}\n" for line in lines or [])
    return CliRunner().invoke(cli.main, list(map(str, arguments)), input=given)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_takes_a_path_reads_it_alike(home, name):
    command = cli.main.get_command(click.Context(cli.main), name)
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            assert parameter.type is PATH, parameter.name
    assert PATH.convert("~/p.png", None, None) == home / "p.png"
    assert str(PATH.convert(NOBODY, None, None)) == NOBODY
    assert str(PATH.convert("./~", None, None)) == "~"  # for a folder of that name


def test_the_api_expands_a_home(home):
    assert Artifact.open("~/artifact").root == home / "artifact"
    vlm = VLM.load("~/artifact", feature_cache="~/cache")
    assert vlm.generate("what?", ["~/p.png"]).text == vlm.generate("what?", [home / "p.png"]).text
    assert list((home / "cache").iterdir())
    assert load_target("~/board.toml").threads == 1
    (question,) = read_questions("~/set.jsonl").questions
    assert source_of(*question.images) == home / "p.png"
    (home / "checkpoint").mkdir()
    assert locate("~/checkpoint").folder == home / "checkpoint"
    with pytest.raises(PocketVLMError, match="no such folder: ~/artifact"):
        Artifact.open(Path("~/artifact"))


@pytest.mark.parametrize(
    "use",
    [
        Artifact.open,
        VLM.load,
        load_target,
        read_questions,
        locate,
        lambda path: export(path, "out"),
        lambda path: export("demo", f"{path}/out", ExportOptions(budgets=(10**6,))),
        lambda path: VLM.load("~/artifact").generate("what?", [path]),
        lambda path: VLM.load("~/artifact").generate("what?", videos=[path]),
    ],
)
def test_nobodys_home_is_refused_by_the_api(use):
    with pytest.raises(PocketVLMError) as refused:
        use(NOBODY)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", NOBODY, "--prompt", "what?"],
        ["run", "~/artifact", "--prompt", "what?", "--image", NOBODY],
        ["run", "~/artifact", "--prompt", "what?", "--target", f"{NOBODY}.toml"],
        ["inspect", NOBODY],
        ["inspect", "~/artifact", "--image", NOBODY, "--overlay", "out.png"],
        ["verify", NOBODY],
        ["verify", "~/artifact", "--against", NOBODY],
        ["targets", f"{NOBODY}.toml"],
        ["export", NOBODY, "-o", "out"],
        ["evaluate", "~/artifact", "--data", NOBODY],
        ["evaluate", "~/artifact", "--data", "~/set.jsonl", "--answers", NOBODY],
        ["evaluate", "~/artifact", "--data", "~/set.jsonl", "--baseline", NOBODY],
        ["evaluate", "~/artifact", "--data", "~/set.jsonl", "--json", NOBODY],
        ["profile", "~/artifact", "-o", f"{NOBODY}.jsonl"],
        ["profile", "--compare", NOBODY, NOBODY],
        ["questions", "gqa", NOBODY, "--images", ".", "-o", "out.jsonl"],
    ],
)
def test_nobodys_home_is_refused_by_commands(arguments):
    result = pocketvlm(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "nobody-of-this-name" in result.stderr


def test_a_conversation_goes_on_after_nobodys_picture():
    lines = [f"/image {NOBODY}", "what?", f"/video {NOBODY}", "/image ~/p.png", "and?"]
    result = pocketvlm("chat", "~/artifact", "--max-new-tokens", 2, "--json", lines=lines)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in row for row in rows] == [True, False, True, False]
    assert rows[-1]["visual_tokens"]["after"]
    assert result.exit_code == 1
