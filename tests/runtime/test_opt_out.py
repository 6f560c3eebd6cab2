"""What libraries do by themselves is turned off before they are imported, in every process."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketvlm import upstream

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / folder for folder in ("runtime", "exporter", "profiles", "tools")]
TURNED_OFF = ["ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED"]
# ONNX Runtime reports nothing where one of these is set, as it is on most servers that run tests.
OF_SERVERS = ["CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_RUNNING_UNIT_TESTS"]
ANSWER = """
import os, sys
from pocketvlm import VLM
answer = VLM.load(sys.argv[1]).generate("what is it?")
assert "onnxruntime" in sys.modules and answer.text is not None
if os.path.isdir("/proc/self/fd"):
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert not [name for name in opened if name.startswith("socket:")], opened
"""


def child(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python as somebody whose folders are all empty, with nothing turned off."""
    names = ("HOME", "XDG_CACHE_HOME", "TMPDIR", "LOCALAPPDATA", "TEMP")
    env = {name: value for name, value in os.environ.items() if name not in OF_SERVERS}
    env = {name: value for name, value in env.items() if name not in TURNED_OFF}
    env |= {name: str(folder) for name in names} | {"PYTHONDONTWRITEBYTECODE": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), env.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_an_answer_leaves_nothing_but_our_own_checksums(artifact_dir, home):
    done = child(home, "-c", ANSWER, str(artifact_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert files(home) == ["pocketvlm/verified.json"]


def test_without_it_there_would_be_more(home):
    """What the test above would see; a build of ONNX Runtime without telemetry has nothing."""
    assert child(home, "-c", "import onnxruntime").returncode == 0
    if not files(home):
        pytest.skip("this ONNX Runtime reports nothing")
    assert any("onnxruntime" in name for name in files(home))


def importers() -> set[str]:
    """The packages in which a module imports ONNX Runtime."""
    packages = set()
    for source in SOURCES:
        for file in source.rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            names = [
                name
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
            ]
            if any(name.partition(".")[0] == "onnxruntime" for name in names):
                packages.add(file.relative_to(source).parts[0].removesuffix(".py"))
    return packages


def test_whatever_imports_onnx_runtime_comes_after_it_is_turned_off(tmp_path):
    """A package is imported before its modules, and each of these packages turns it off."""
    packages = sorted(importers())
    assert {"pocketvlm", "pocketvlm_export"} <= set(packages)
    for package in packages:
        program = f"import os, sys, {package}\nassert 'onnxruntime' not in sys.modules\n"
        program += f"print(*[os.environ.get(name) for name in {TURNED_OFF}])"
        done = child(tmp_path, "-c", program)
        assert (done.stdout.split(), done.stderr) == (["1", "1", "0"], ""), package


def test_what_is_set_already_is_left(monkeypatch):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    upstream.opt_out()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_call_for_that_is_there():
    import onnxruntime

    assert callable(onnxruntime.disable_telemetry_events)


def test_of_one_that_is_imported_already_the_rest_is_turned_off(monkeypatch):
    calls = []
    before = SimpleNamespace(disable_telemetry_events=lambda: calls.append("off"))
    monkeypatch.setitem(sys.modules, "onnxruntime", before)
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    upstream.opt_out()
    assert calls == ["off"]
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"  # for processes begun from here
