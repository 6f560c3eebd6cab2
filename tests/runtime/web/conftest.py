"""A registry of small archives, and a lock file that pins them."""

import json

import pytest

from pocketvlm.web import libraries, page_folder
from support.npm_archives import ENTRIES, archive, integrity


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(libraries, "cache_path", lambda name: folder / name)
    return folder


@pytest.fixture
def registry(tmp_path, monkeypatch, cache):
    """A folder of archives; the page's lock file pins these instead of npm's."""
    folder = tmp_path / "registry"
    folder.mkdir()
    packages = {}
    for name, entries in ENTRIES.items():
        data = archive({f"package/{entry}": f"{name} {entry}".encode() for entry in entries})
        (folder / f"{name.removeprefix('@').replace('/', '-')}-1.2.3.tgz").write_bytes(data)
        packages[f"node_modules/{name}"] = {"version": "1.2.3", "integrity": integrity(data)}
    page = tmp_path / "page"
    page.mkdir()
    for path in page_folder().iterdir():
        if path.is_file() and path.name != libraries.LOCK:
            (page / path.name).write_bytes(path.read_bytes())
    (page / libraries.LOCK).write_text(json.dumps({"packages": packages}))
    monkeypatch.setattr(libraries, "page_folder", lambda: page)
    return folder
