"""Fixtures of the exporter's tests."""

import shutil

import pytest

from pocketvlm_export.memory import collecting_own_garbage
from support.fixtures import checksum_cache

__all__ = ["checksum_cache", "copied_checkpoint"]


@pytest.fixture
def copied_checkpoint(tiny_checkpoint, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def own_garbage():
    """Tests that call the steps of an export spend their time in it, and not in collecting what
    others have left, as `export` does not either."""
    with collecting_own_garbage():
        yield
