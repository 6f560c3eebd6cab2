"""What the wheel holds, and that the same sources make the same bytes."""

import json
import os
import subprocess
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

import pocketvlm
from pocketvlm.cli.release import commit_of
from support.building import ROOT, build

PACKAGES = {
    "pocketvlm": "runtime",
    "pocketvlm_export": "exporter",
    "pocketvlm_measure": "profiles",
    "pocketvlm_targets": "profiles",
}
INFO = f"pocketvlm-{pocketvlm.__version__}.dist-info"


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


def in_git(*folders):
    """Files of the working tree that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("git does not answer here")
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_file_of_a_package_is_in_the_wheel_and_nothing_else(package, names):
    folder = f"{PACKAGES[package]}/"
    files = {name.removeprefix(folder) for name in in_git(f"{folder}{package}")}
    assert f"{package}/py.typed" in files
    own = {name for name in names if name.startswith(f"{package}/")}
    added = {name for name in own - files if not name.startswith("pocketvlm/web/page/")}
    assert added <= {"pocketvlm/cli/commit.txt"}
    assert files - own == set()


def test_the_page_is_in_the_wheel(names):
    page = {name.removeprefix("clients/web/") for name in in_git("clients/web")}
    assert page, "nothing to compare with"
    assert {f"pocketvlm/web/page/{name}" for name in page} <= names


def test_nothing_of_the_repository_beside_the_packages_is_in_it(names):
    roots = {name.partition("/")[0] for name in names}
    assert roots == {*PACKAGES, "optimum", INFO}
    assert f"{INFO}/licenses/LICENSE" in names


def test_it_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as opened:
        metadata = Parser().parsestr(opened.read(f"{INFO}/METADATA").decode())
        entries = opened.read(f"{INFO}/entry_points.txt").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    without_extra = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert not [
        text for text in without_extra if text.startswith(("torch", "transformers", "onnx "))
    ]
    assert any(text.startswith("onnxruntime") for text in without_extra)
    assert "pocketvlm = pocketvlm.cli:main" in entries


def test_it_names_the_commit(wheel):
    commit = commit_of(ROOT)
    if commit is None:
        pytest.skip("this is not a clone")
    with zipfile.ZipFile(wheel) as opened:
        assert opened.read("pocketvlm/cli/commit.txt").decode().strip() == commit


def test_the_same_sources_make_the_same_bytes(wheel, sources, tmp_path):
    """From a clone, and from its source archive: other folder, times and file mode, no git."""
    before = os.umask(0o077)
    try:
        for file in sources.rglob("*.py"):
            file.chmod(0o600)
        again = build(sources, "wheel", tmp_path)
    finally:
        os.umask(before)
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def test_it_answers_without_the_repository(python, artifact_dir, picture, vlm, tmp_path):
    """`make bare` does so with packages of its own as well."""
    Image.fromarray(picture).save(tmp_path / "picture.png")
    question = ["--image", "picture.png", "--prompt", "what?", "--max-new-tokens", "4", "--json"]
    command = [python, "-m", "pocketvlm", "run", artifact_dir, *question]
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    own = vlm.generate("what?", images=[picture], sampling=pocketvlm.Sampling(max_new_tokens=4))
    assert json.loads(done.stdout)["token_ids"] == own.token_ids
    where = "import pocketvlm, pocketvlm_export, pocketvlm_measure; print(pocketvlm.__file__)"
    asked = [python, "-c", where]
    done = subprocess.run(asked, cwd=tmp_path, env=variables, capture_output=True, check=True)
    assert Path(done.stdout.decode()).is_relative_to(python.parents[1])
