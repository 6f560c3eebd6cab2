"""docs/add-a-method.md is a package: it is taken from the page, installed, exported with, and its
artifact answers with the package gone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, Sampling
from pocketvlm.cli import main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add-a-method.md"
_FILE = re.compile(r"```\w+\n# ([\w.]+)\n(.*?)```", re.DOTALL)
_METRIC = re.compile(
    r"```toml\n(\[project\.entry-points\.\"pocketvlm\.metrics\"\]\n.*?)```", re.DOTALL
)
TARGET = "site"


def python(folder: Path, *arguments: str) -> str:
    """Run Python with what is installed in ``folder``."""
    path = os.pathsep.join([str(folder / TARGET), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder with the page's files, and what pip makes of them in ``site``."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("package")
    text = PAGE.read_text(encoding="utf-8")
    files = dict(_FILE.findall(text))
    assert files.keys() == {
        "pyproject.toml",
        "pocketvlm_longest.py",
        "pocketvlm_begins.py",
        "test_longest.py",
    }
    (metric,) = _METRIC.findall(text)
    project = files["pyproject.toml"].replace("[tool.setuptools]", f"{metric}\n[tool.setuptools]")
    modules = '["pocketvlm_longest", "pocketvlm_begins"]'
    files["pyproject.toml"] = project.replace('["pocketvlm_longest"]', modules)
    for name, source in files.items():
        (folder / name).write_text(source)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    python(folder, *install, "--target", str(folder / TARGET), ".")
    return folder


@pytest.fixture(scope="module")
def artifact(package) -> Path:
    """The demo, exported through the gate with the method of the page."""
    options = ["--pruner", "longest", "--pruner-option", "power=1", "--budget", "36", "--json"]
    report = python(package, "-m", "pocketvlm", "export", "demo", "-o", "out", *options)
    assert json.loads(report)["parity"]["vision"]["kept_equal"]
    return package / "out"


def test_the_artifact_answers_without_the_package(artifact, examples):
    with pytest.raises(ImportError):
        __import__("pocketvlm_longest")
    manifest = Artifact.open(artifact).manifest
    assert (manifest.pruning.method, manifest.pruning.options) == ("longest", {"power": 1.0})
    assert manifest.created_by["pocketvlm-longest"] == "0.1.0"
    picture = sorted(examples.glob("*.png"))[0]
    for budget in (36, 9):
        answer = VLM.load(artifact, budget=budget).generate(
            "What is in the picture?", images=[picture], sampling=Sampling(max_new_tokens=4)
        )
        assert len(answer.kept_indices[0]) == budget
    card = (artifact / "README.md").read_text()
    assert "keeps the 36 patches whose features are longest (Longest features; power 1.0)" in card


def test_checking_it_again_needs_the_package(artifact):
    result = CliRunner().invoke(main, ["verify", str(artifact), "--against", "demo"])
    assert result.exit_code == 1
    assert "the pruning method 'longest', which this exporter cannot check" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_pages_own_tests_pass_and_its_names_are_listed(package):
    shown = python(
        package,
        "-c",
        "import pytest, sys\n"
        "from pocketvlm_export.pruning import pruner_names\n"
        "from pocketvlm_measure.evaluation.metrics import METRICS\n"
        "assert pruner_names()[-1] == 'longest' and 'torch' not in sys.modules\n"
        "assert METRICS['begins'].score('Two dogs.', ['two']) == 1 and 'torch' not in sys.modules\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_longest.py']))",
    )
    assert "3 passed" in shown
