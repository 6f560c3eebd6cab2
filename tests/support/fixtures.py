"""Fixtures that several folders of tests share; a conftest imports those it wants."""

import numpy as np
import pytest

from pocketvlm import VLM
from support.tiny_artifact import write_artifact


@pytest.fixture(autouse=True)
def checksum_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pocketvlm" / "verified.json"


@pytest.fixture
def artifact_dir(tmp_path):
    write_artifact(tmp_path / "artifact", budgets=(6, 12))
    return tmp_path / "artifact"


@pytest.fixture
def vlm(artifact_dir):
    return VLM.load(artifact_dir)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
