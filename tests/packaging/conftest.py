"""What is built of this repository, once."""

import tarfile

import pytest

from support.building import ROOT, build


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
