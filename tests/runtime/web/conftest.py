"""A registry of small archives, and a lock file that pins them."""

import pytest

from pocketvlm.web import libraries
from support.npm_archives import pinned_registry


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(libraries, "cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def registry(tmp_path, monkeypatch, cache):
    """A folder of archives; the page's lock file pins these instead of npm's."""
    return pinned_registry(tmp_path, monkeypatch)
