"""Fixtures of the self-test's tests: a tiny artifact that has one, written once."""

import shutil

import pytest

from support.fixtures import checksum_cache
from support.self_tests import give_self_test
from support.tiny_artifact import write_artifact

__all__ = ["checksum_cache"]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("selftest") / "artifact"
    write_artifact(root, budgets=(6, 12))
    give_self_test(root)
    return root


@pytest.fixture
def tested_dir(written, tmp_path):
    """A copy of it, to damage."""
    shutil.copytree(written, tmp_path / "artifact")
    return tmp_path / "artifact"
