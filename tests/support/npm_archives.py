"""Knows how to pack archives as npm does, and puts small ones in the place of npm's registry."""

import base64
import hashlib
import io
import json
import tarfile

from pocketvlm.web import libraries, page_folder

ENTRIES = {
    "onnxruntime-web": [
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
        "dist/ort.webgpu.min.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
        "dist/ort.js",
    ],
    "@huggingface/tokenizers": ["dist/tokenizers.min.mjs", "LICENSE"],
    "@huggingface/jinja": ["dist/index.js", "LICENSE"],
}


def archive(entries):
    """A .tgz of {name: bytes, or a TarInfo}."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as tar:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


def integrity(data):
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def pinned_registry(root, monkeypatch):
    """A folder of small archives below ``root``; the page's lock file pins these, and they are
    cached there too."""
    folder, page = root / "registry", root / "page"
    folder.mkdir()
    packages = {}
    for name, entries in ENTRIES.items():
        data = archive({f"package/{entry}": f"{name} {entry}".encode() for entry in entries})
        (folder / f"{name.removeprefix('@').replace('/', '-')}-1.2.3.tgz").write_bytes(data)
        packages[f"node_modules/{name}"] = {"version": "1.2.3", "integrity": integrity(data)}
    page.mkdir()
    for path in page_folder().iterdir():
        if path.is_file() and path.name != libraries.LOCK:
            (page / path.name).write_bytes(path.read_bytes())
    (page / libraries.LOCK).write_text(json.dumps({"packages": packages}))
    monkeypatch.setattr(libraries, "page_folder", lambda: page)
    monkeypatch.setattr(libraries, "cache_path", lambda name: root / "cache" / name)
    return folder
