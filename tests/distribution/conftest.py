"""What is built of this repository, once."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from support.building import ROOT, build
from support.fixtures import artifact_dir, picture, vlm

__all__ = ["artifact_dir", "picture", "vlm"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """What the source archive holds, unpacked: another folder, other times, no git."""
    archive = build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    for file in root.rglob("*"):
        file.touch()
    return root


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory):
    """An environment with the wheel in it; what it requires comes from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(
        subprocess.run(
            [python, "-c", ask], check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(packages)
    (packages / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    return python
