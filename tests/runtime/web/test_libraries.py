"""The page's libraries: fetched once, checked against the lock file, nothing else of an archive
taken."""

import dataclasses
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pocketvlm.errors import EngineError, RequestError
from pocketvlm.web.libraries import Library, addresses, fetch_library, libraries
from support.npm_archives import archive, integrity


def library(name="@huggingface/jinja", **values):
    return dataclasses.replace(Library(name, "1.2.3", ""), **values)


def pinned(registry):
    return {each.name: each for each in libraries()}


def test_files_are_taken_of_each(registry, cache):
    for each in libraries():
        folder = fetch_library(each, str(registry))
        assert folder.parent == cache / "web"
        names = {path.name for path in folder.iterdir()}
        assert "ort.js" not in names
        for path in folder.iterdir():
            assert path.read_bytes().startswith(each.name.encode())
    assert addresses(libraries())["@huggingface/tokenizers"] == (
        "./lib/tokenizers@1.2.3/tokenizers.min.mjs"
    )


def test_what_was_fetched_is_not_fetched_again(registry, tmp_path):
    each = pinned(registry)["@huggingface/jinja"]
    first = fetch_library(each, str(registry))
    assert fetch_library(each, str(tmp_path / "nowhere")) == first


def test_another_archive_than_the_pinned_one_is_refused(registry, cache):
    for each in libraries():
        path = registry / each.archive
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(EngineError, match="not the one that is pinned"):
            fetch_library(each, str(registry))
    weaker = dataclasses.replace(libraries()[0], integrity="sha1-AAAA")
    with pytest.raises(EngineError, match="not the one that is pinned"):
        fetch_library(weaker, str(registry))
    assert not (cache / "web").exists() or not list((cache / "web").iterdir())


def _link(name, target, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "entries",
    [
        {"package/LICENSE": b"x"},
        {"package/dist/index.js": _link("package/dist/index.js", "/etc/passwd", tarfile.SYMTYPE)},
        {"package/dist/index.js": _link("package/dist/index.js", "../../x", tarfile.LNKTYPE)},
        {"package/dist/index.js": _link("package/dist/index.js", "", tarfile.DIRTYPE)},
    ],
)
def test_archives_without_the_files_are_refused(tmp_path, cache, entries):
    data = archive({"package/LICENSE": b"licence"} | entries)
    (tmp_path / library().archive).write_bytes(data)
    with pytest.raises(EngineError):
        fetch_library(library(integrity=integrity(data)), str(tmp_path))
    assert not list(cache.rglob("*.js"))


def test_what_is_no_archive_is_refused(tmp_path, cache):
    for data in (b"", b"not packed", archive({"package/LICENSE": b"x"})[:40]):
        (tmp_path / library().archive).write_bytes(data)
        with pytest.raises(EngineError, match=r"damaged|cannot be taken"):
            fetch_library(library(integrity=integrity(data)), str(tmp_path))


def test_a_folder_without_the_archive_is_refused(tmp_path, cache):
    with pytest.raises(RequestError, match="npm pack") as refusal:
        fetch_library(library(), str(tmp_path))
    assert refusal.value.setting == "registry"


def test_a_registry_is_asked_by_npm_s_addresses(tmp_path, cache, monkeypatch):
    data = archive({"package/dist/index.js": b"code", "package/LICENSE": b"licence"})
    asked = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if "jinja" in self.path else 404)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        folder = fetch_library(library(integrity=integrity(data)))
        with pytest.raises(EngineError, match="cannot be fetched"):
            fetch_library(library("@huggingface/tokenizers"))
        server.shutdown()
    assert asked[0] == "/@huggingface/jinja/-/jinja-1.2.3.tgz"
    assert (folder / "index.js").read_bytes() == b"code"
