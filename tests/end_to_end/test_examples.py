"""The examples run as they are and print what people are told to expect; the notebook that is
shipped is that of its source, and its cells still give the answers in it."""

import base64
import contextlib
import importlib.util
import io
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "pocketvlm.ipynb"
SOURCE = ROOT / "tools" / "make_notebook" / "source.py"
MOST_LINES, MOST_BYTES = 60, 600_000
SCENE_2 = "A blue circle at the top right and a yellow star at the right."


@pytest.fixture
def build(demo_default, tmp_path, monkeypatch):
    """A folder with what `make demo` and an earlier comparison left."""
    (tmp_path / "methods").mkdir()
    for name in ("demo", "methods/scope"):
        (tmp_path / name).symlink_to(demo_default)
    monkeypatch.setenv("POCKETVLM_BUILD", str(tmp_path))
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "demo_folder", raising=False)
    return tmp_path


@pytest.fixture
def run(build, monkeypatch, capsys):
    """Run an example as ``python examples/NAME`` does; returns what it prints."""

    def call(name, *arguments):
        path = EXAMPLES / name
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_each_is_short_and_says_how_it_is_called():
    paths = sorted(EXAMPLES.glob("*.py"))
    assert len(paths) >= 8
    for path in paths:
        text = path.read_text()
        assert len(text.splitlines()) < MOST_LINES, path.name
        if path.name != "demo_folder.py":
            assert f"python examples/{path.name}" in " ".join(text.split()), path.name
        # None hides a module of others from those beside it.
        assert path.stem not in sys.stdlib_module_names | {"pocketvlm", "openai", "PIL"}


def test_answer(run):
    lines = run("answer.py").splitlines()
    assert lines[0] == SCENE_2
    assert lines[1] == "36 of 144 visual tokens"
    assert re.fullmatch(r"first token after \d+ ms, whole answer after \d+ ms", lines[2])


def test_stream(run):
    lines = run("stream.py").splitlines()
    assert lines[0].strip().startswith("A white square at the top")
    assert re.fullmatch(r"\d+ tokens, [\d.]+ ms for each after the first", lines[1])
    assert re.fullmatch(r"stopped: A white square at the.* \.\.\. \(interrupted\)", lines[2])


def test_chat(run):
    out = run("chat.py")
    assert "How many objects are there? three" in out
    assert "What shape is blue? triangle" in out
    assert "Which letter is shown? H" in out
    cached = [int(number) for number in re.findall(r"(\d+) of \d+ tokens of the prompt", out)]
    assert cached[0] < 36 < cached[1] < cached[2]


def test_choose_a_budget(run):
    rows = [line.split() for line in run("choose_a_budget.py").splitlines()[2:]]
    assert [row[0] for row in rows] == ["144", "72", "36", "14", "7"]
    right = [int(row[1]) for row in rows]
    assert right[0] >= 18
    assert right[0] >= right[-1]


def test_compare_methods(run, build):
    run("compare_methods.py", "scope", "uniform")
    with Image.open(build / "compare-methods.png") as sheet:
        assert sheet.size == (512, 560)
        halves = [sheet.crop((left, 24, left + 256, 280)) for left in (0, 256)]
    assert halves[0].tobytes() != halves[1].tobytes()


def test_tune(run):
    pytest.importorskip("scipy", reason="measuring needs pocketvlm[measure]")
    out = run("tune.py")
    assert " 144 tokens: first token after" in out
    assert "  36 tokens: first token after" in out
    assert re.search(r"with \d+ tokens: What shape is yellow\? star", out)


def test_serve_and_openai(run):
    pytest.importorskip("openai", reason="the example asks by OpenAI's client: pip install openai")
    lines = run("serve_and_openai.py").splitlines()
    assert [line.strip() for line in lines] == [SCENE_2, SCENE_2]


def test_without_openais_client_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SystemExit, match="pip install openai"):
        run("serve_and_openai.py")


@pytest.fixture(scope="module")
def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return [cell | {"source": "".join(cell["source"])} for cell in notebook["cells"]]


def printed(cell):
    """What a cell has printed."""
    streams = [each for each in cell["outputs"] if each["output_type"] == "stream"]
    return "".join("".join(each["text"]) for each in streams if each["name"] == "stdout")


def test_the_notebook_is_that_of_its_source(cells):
    """``make notebook`` was run since the source was changed."""
    pieces = re.split(r"^# %%.*\n", SOURCE.read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(pieces) == len(cells)
    for piece, cell in zip(pieces, cells, strict=True):
        if cell["cell_type"] == "markdown":
            piece = re.sub(r"^# ?", "", piece, flags=re.M)
        assert piece.strip() == cell["source"].strip()


def test_the_notebook_is_executed_and_small(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [each for each in outputs if each["output_type"] == "error"]
    assert not [each for each in outputs if each.get("name") == "stderr"]
    pictures = [
        (kind, data)
        for each in outputs
        for kind, data in each.get("data", {}).items()
        if kind.startswith("image/")
    ]
    assert len(pictures) >= 3
    for _, data in pictures:
        Image.open(io.BytesIO(base64.b64decode("".join(data)))).verify()
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    assert str(Path.home()) not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="it draws with matplotlib"
)
def test_its_cells_still_give_these_answers(cells, build, monkeypatch):
    """Times differ; the words do not."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(cell["source"], NOTEBOOK.name, "exec"), names)
        assert without_times(out.getvalue()) == without_times(printed(cell))


def without_times(text):
    return re.sub(r"[\d.]+ ms", "... ms", text)
