"""Fixtures of the exporter's tests."""

import shutil

import pytest

from support.fixtures import checksum_cache

__all__ = ["checksum_cache", "copied_checkpoint"]


@pytest.fixture
def copied_checkpoint(tiny_checkpoint, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
