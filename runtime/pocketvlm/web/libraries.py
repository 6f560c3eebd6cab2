"""Knows the libraries that the page needs: which files of which npm packages. They are fetched once
without npm, and checked against the page's lock file.

They are kept in the user's cache folder, a folder for each version. Nothing of a package is run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from pocketvlm.errors import EngineError, RequestError, library_errors
from pocketvlm.files import private_folder
from pocketvlm.files.folders import put_in_place, staged
from pocketvlm.files.remembered import cache_path
from pocketvlm.web import page_folder

LOCK = "package-lock.json"
REGISTRY = "https://registry.npmjs.org"
_WAIT = 60.0  # seconds for another process that writes the same package
_MOST_PACKED = 256 << 20  # bytes of a package; onnxruntime-web has about 50 MB
_MOST_FILE = 64 << 20  # bytes of one file of it, its largest have 27 MB
_TIMEOUT = 60.0  # seconds without a byte
_ALGORITHM = "sha512"
_WASM, _GPU = "ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"
# Of each package the files that are taken, and the names that modules import them by.
_TAKEN: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "onnxruntime-web": (
        (
            *("dist/ort.wasm.min.mjs", f"dist/{_WASM}.mjs", f"dist/{_WASM}.wasm"),
            *("dist/ort.webgpu.min.mjs", f"dist/{_GPU}.mjs", f"dist/{_GPU}.wasm"),
        ),
        {
            "onnxruntime-web/wasm": "ort.wasm.min.mjs",
            "onnxruntime-web/webgpu": "ort.webgpu.min.mjs",
        },
    ),
    "@huggingface/tokenizers": (
        ("dist/tokenizers.min.mjs", "LICENSE"),
        {"@huggingface/tokenizers": "tokenizers.min.mjs"},
    ),
    "@huggingface/jinja": (("dist/index.js", "LICENSE"), {"@huggingface/jinja": "index.js"}),
}


@dataclass(frozen=True)
class Library:
    """An npm package, as the page's lock file pins it.

    Attributes:
        name: on npm.
        version: exactly.
        integrity: ``sha512-`` and the checksum of its archive in base64.
    """

    name: str
    version: str
    integrity: str

    @property
    def folder(self) -> str:
        """What its folder is called: after the version, so that a browser may keep it forever."""
        return f"{PurePosixPath(self.name).name}@{self.version}"

    @property
    def archive(self) -> str:
        """What npm calls its archive where that lies by itself."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def address(self, registry: str) -> str:
        """Where a registry has its archive."""
        name = PurePosixPath(self.name).name
        return f"{registry.rstrip('/')}/{quote(self.name, safe='@/')}/-/{name}-{self.version}.tgz"


def libraries() -> list[Library]:
    """What the page's lock file pins of the packages that it needs.

    Raises:
        EngineError: there is no such file, or it lacks one of them.
    """
    path = page_folder() / LOCK
    try:
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
        rows = {name: packages[f"node_modules/{name}"] for name in _TAKEN}
        return [Library(name, row["version"], row["integrity"]) for name, row in rows.items()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{path} does not pin the page's libraries", advice="install pocketvlm again"
        ) from error


def addresses(pinned: list[Library], prefix: str = "lib/") -> dict[str, str]:
    """{name that a module imports: path from the page}, as browsers take it."""
    return {
        specifier: f"./{prefix}{library.folder}/{file}"
        for library in pinned
        for specifier, file in _TAKEN[library.name][1].items()
    }


def fetch_library(library: Library, registry: str | None = None) -> Path:
    """The folder in the cache with a library's files, fetched first where it is missing.

    Args:
        library: which.
        registry: an address, or a folder with archives as ``npm pack`` writes them; the
            environment's ``NPM_CONFIG_REGISTRY``, else npm's own, if not given.

    Raises:
        EngineError: the registry cannot be reached, or what it sends is not what the lock file
            pins.
        RequestError: ``registry`` is not an address, or a folder without the archive.
    """
    kept = cache_path("web") / library.folder
    if kept.is_dir():
        return kept
    files = dict(_unpacked(library, _checked(library, _archive(library, registry))))
    try:
        private_folder(kept.parent)
        with staged(kept, setting="", wait=_WAIT) as folder:
            if kept.is_dir():  # another process was faster, with the same bytes
                return kept
            for name, data in files.items():
                (folder / name).write_bytes(data)
            put_in_place(folder, kept, (), setting="")
    except (OSError, RequestError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise EngineError(
            f"{kept} cannot be written ({reason or error})",
            advice="free some space, or set XDG_CACHE_HOME to another folder",
        ) from error
    return kept


def _archive(library: Library, registry: str | None) -> bytes:
    """The archive as the registry has it, whatever is in it."""
    source = registry or os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    scheme = urlsplit(source).scheme
    if scheme in ("https", "http"):
        return _downloaded(library.address(source))
    path = Path(source) / library.archive
    try:
        if path.stat().st_size > _MOST_PACKED:
            raise EngineError(f"{path} is larger than {_MOST_PACKED >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror})",
            expected="an address, or a folder with archives as `npm pack` writes them",
            setting="registry",
        ) from error


def _downloaded(address: str) -> bytes:
    refusal = library_errors(
        lambda line: EngineError(
            f"{address} cannot be fetched ({line})",
            advice="connect once to the network, or give --registry a folder with npm's archives",
        )
    )
    with refusal:
        request = urllib.request.Request(address, headers={"Accept": "*/*"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as reply:
            data: bytes = reply.read(_MOST_PACKED + 1)
    if len(data) > _MOST_PACKED:
        raise EngineError(f"{address} is larger than {_MOST_PACKED >> 20} MiB")
    return data


def _checked(library: Library, data: bytes) -> bytes:
    """The archive, where it is the one that the lock file pins."""
    algorithm, _, stated = library.integrity.partition("-")
    computed = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if algorithm != _ALGORITHM or computed != stated:
        raise EngineError(
            f"the archive of {library.name} {library.version} is not the one that is pinned",
            expected=library.integrity,
            advice="take it from another registry",
        )
    return data


def _unpacked(library: Library, data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files that are taken, read into memory: no name of the archive becomes a
    path."""
    broken = library_errors(
        lambda line: EngineError(f"the archive of {library.name} is damaged ({line})")
    )
    with broken, tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for name in _TAKEN[library.name][0]:
            member = archive.getmember(f"package/{name}")
            stream = archive.extractfile(member) if member.size <= _MOST_FILE else None
            if not member.isfile() or stream is None:
                raise EngineError(f"{name} of {library.name} is not a file that can be taken")
            yield PurePosixPath(name).name, stream.read()
