"""docs/licences.md is what the installed packages state, and names what is copyleft."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from licences import CARRIED, Licence, licence_of, needed_for
from licences.__main__ import PAGE, row
from lock import LOCK, read_lock
from support.packages import write_package


@pytest.fixture(scope="module")
def rows():
    """The table of every dependency, {package: its line}."""
    section = PAGE.read_text().partition("<!-- licences -->")[2].partition("<!-- /licences -->")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def test_every_locked_release_has_a_line(rows):
    """Else: make licences."""
    releases = read_lock(LOCK.read_text())
    assert list(rows) == sorted(releases)
    for name, line in rows.items():
        assert line.split(" | ")[1] == releases[name].version


def test_each_line_is_what_the_installed_package_states(rows):
    parts = needed_for(rows)
    compared = 0
    for name, line in rows.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        if installed == line.split(" | ")[1]:
            licence = Licence(name, installed, licence_of(name), parts[name])
            assert row(licence).split(" | ")[2] == line.split(" | ")[2], name
            compared += 1
    assert compared > 20


def test_no_package_is_without_a_licence(rows):
    for name, line in rows.items():
        assert line.split(" | ")[2].strip(), name


def test_copyleft_is_named(rows):
    section = PAGE.read_text().partition("<!-- copyleft -->")[2].partition("<!-- /copyleft -->")[0]
    named = {line.split(" | ")[0].removeprefix("| ") for line in section.splitlines()[3:]}
    stated = {name for name, line in rows.items() if "GPL" in line or "MPL" in line}
    assert {"hypothesis", "tqdm"} <= stated
    assert named == stated | set(CARRIED)


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("License-Expression: MIT OR Apache-2.0\n", "MIT OR Apache-2.0"),
        (
            "License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License\n",
            "BSD-3-Clause",
        ),
        ("License: MIT\n", "MIT"),
        ("Classifier: License :: DFSG approved\nClassifier: License :: Other\n", "Other"),
        ("License: =====\n", ""),
    ],
)
def test_what_metadata_states(stated, licence, tmp_path, monkeypatch):
    write_package(tmp_path, "licensed", {})
    file = tmp_path / "licensed-1.0.dist-info" / "METADATA"
    file.write_text(file.read_text() + stated)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert licence_of("licensed") == licence


def test_what_a_package_comes_with():
    parts = needed_for(["numpy", "onnxscript", "ruff", "nothing-that-is"])
    assert parts["numpy"] == ("runtime",)
    assert parts["onnxscript"] == ("export",)
    assert parts["ruff"] == ("lint",)
    assert parts["nothing-that-is"] == ("building",)
