"""requirements.lock says what constraints.txt says, with hashes; what does not have them is not
installed."""

import os
import re
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from lock import CONSTRAINTS, LLAMA_CPP, LOCK, ROOT, TORCH, Locked, normal, read_lock, read_pins
from lock.install import _torch

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A release of torch in a folder, as pip takes it: two builds, of which one may be missing.
PLAIN, CPU = "2.13.0", "2.13.0+cpu"


@pytest.fixture(scope="module")
def releases():
    return read_lock(LOCK.read_text())


def test_every_release_has_hashes(releases):
    for release in releases.values():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", release.line), release.name
    with pytest.raises(ValueError, match="is not a release with hashes"):
        read_lock("numpy==2.4.6\n")
    with pytest.raises(ValueError, match="is not a release with hashes"):
        read_lock("numpy>=2\n")


def test_the_releases_are_those_of_the_constraints(releases):
    """Else: make lock."""
    pins = read_pins(CONSTRAINTS.read_text())
    for name, release in releases.items():
        assert pins[name] == release.version.partition("+")[0], name


def test_everything_that_is_required_is_locked(releases):
    extras = PYPROJECT["optional-dependencies"]
    needed = PYPROJECT["dependencies"] + extras["export"] + extras["test"] + extras["lint"]
    for text in needed:
        requirement = Requirement(text)
        locked = releases[normal(requirement.name)]
        assert requirement.specifier.contains(locked.version), text


def test_what_the_locked_releases_require_is_locked_too(releases):
    """pip resolves nothing of it: a release that lacks one of its own would fail at an import."""
    missing = []
    for name in releases:
        try:
            texts = requires(name) or []
        except PackageNotFoundError:  # another kind of machine, or without llama.cpp
            assert name in (LLAMA_CPP, "diskcache", "editables", "hatchling", "pathspec")
            continue
        needed = [Requirement(text) for text in texts]
        missing += [
            f"{name}: {one.name}"
            for one in needed
            if (one.marker is None or one.marker.evaluate({"extra": ""}))
            and normal(one.name) not in releases
        ]
    assert missing == []


def write_wheel_of_torch(folder, build):
    """One that has nothing in it but its metadata."""
    name, info = f"torch-{build}-py3-none-any.whl", f"torch-{build}.dist-info"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {build}\n"
        )
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(
    ("builds", "installed"),
    [((CPU, PLAIN), None), ((PLAIN,), PLAIN)],
    ids=["another file of its name", "another build"],
)
def test_the_torch_of_a_machine(builds, installed, tmp_path, capfd, monkeypatch):
    """The build that the lock has is what CI installs."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for build in builds:
        write_wheel_of_torch(tmp_path, build)
    locked = Locked(TORCH, CPU, f"{TORCH}=={CPU} --hash=sha256:{'0' * 64}")
    target = tmp_path / "target"
    links = ["--no-index", "--find-links", str(tmp_path), "--target", str(target)]
    status = _torch(locked, [*links, "--no-deps"])
    folders = {folder.name for folder in target.glob("*.dist-info")} if target.exists() else set()
    assert folders == ({f"torch-{installed}.dist-info"} if installed else set())
    assert (status == 0) == (installed is not None)
    printed = capfd.readouterr().err
    assert ("comes without hashes" in printed) == (installed == PLAIN)
    assert ("DO NOT MATCH THE HASHES" in printed) == (installed is None)


def test_a_fault_of_the_way_to_torch_does_not_bring_another(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    locked = Locked(TORCH, CPU, f"{TORCH}=={CPU} --hash=sha256:{'0' * 64}")
    assert _torch(locked, ["--no-such-option"])
    assert "comes without hashes" not in capfd.readouterr().err
