"""Installs llama-cpp-python, which PyPI has as source alone: compiled once (minutes), then kept as
a wheel.

``python tools/install_llama_cpp.py``, with the Python of the environment that shall have it. The
build is a portable one, so that the wheel runs on another CPU than the one that compiled it.
llama.cpp's own converter, which a test holds ours against, lies in the same archive and is unpacked
beside the wheels. Needs a C++ compiler where no wheel is kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from lock import LLAMA_CPP, LOCK, read_lock

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketvlm"
WHEELS = CACHE / "wheels"
CONVERTER = CACHE / "llama.cpp"
_PARTS = (
    "convert_hf_to_gguf.py",
    "conversion/",
    "gguf-py/",
)  # of llama.cpp: all that its converter needs


def main() -> None:
    """Install from the cache; where it lacks something, fetch the source and fill it first."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help
    requirement = pinned()
    release = requirement.replace("==", "-")
    WHEELS.mkdir(parents=True, exist_ok=True)
    if not (list(WHEELS.glob(f"{release}-*.whl")) and CONVERTER.is_dir()):
        source = _fetch(requirement, release)
        if not CONVERTER.is_dir():
            _unpack_converter(source)
        if not list(WHEELS.glob(f"{release}-*.whl")):
            os.environ["CMAKE_ARGS"] = "-DGGML_NATIVE=OFF"
            _pip("wheel", "--no-deps", "--wheel-dir", str(WHEELS), str(source))
        source.unlink()
    _pip("install", "--quiet", "--no-index", "--find-links", str(WHEELS), "--no-deps", requirement)


def pinned() -> str:
    """The release that constraints.txt names, as a requirement."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in pins if line.startswith("llama_cpp_python=="))


def _fetch(requirement: str, release: str) -> Path:
    """The source, whose hash requirements.lock has."""
    locked = read_lock(LOCK.read_text(encoding="utf-8"))[LLAMA_CPP]
    if f"=={locked.version}" not in requirement:
        raise OSError(f"{LOCK.name} has {locked.version}, {requirement} is asked for: `make lock`")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text(locked.line)
        options = ["--no-deps", "--no-binary", ":all:", "--require-hashes"]
        _pip("download", "--quiet", *options, "--dest", str(WHEELS), "--requirement", str(listed))
    return WHEELS / f"{release}.tar.gz"


def _unpack_converter(source: Path) -> None:
    """Unpack beside its place and move it there, so that a half unpacked one is never taken for
    whole."""
    inside = f"{source.name.removesuffix('.tar.gz')}/vendor/llama.cpp/"
    unpacked = CONVERTER.with_name(f"llama.cpp.{os.getpid()}")
    with tarfile.open(source) as archive:
        for member in archive:
            part = member.name.removeprefix(inside)
            if part != member.name and part.startswith(_PARTS):
                member.name = part
                archive.extract(member, unpacked, filter="data")
    unpacked.rename(CONVERTER)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
        raise SystemExit(f"llama-cpp-python cannot be installed here ({error})") from error
