"""Knows the CPUs that can be emulated here: how each is set up in one folder, and how its Python is
called."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from other_cpu.debian import fetch

_ARM64_PACKAGES = ("python3", "libstdc++6")
_ARM64_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Machine:
    """``command`` is what to put before arguments of Python, ``environment`` what to add to the
    environment."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def haswell(folder: Path, mirror: str | None) -> Machine:
    """An x86-64 CPU of 2013, with AVX2 and without VNNI: its sums of products of bytes overflow.
    Packages are ours."""
    fetch(folder, mirror)
    return Machine(
        [str(folder / "emulator/usr/bin/qemu-x86_64"), "-cpu", "Haswell", sys.executable]
    )


def arm64(folder: Path, mirror: str | None) -> Machine:
    """A Raspberry Pi 5's CPU with Debian's Python and the real arm64 wheels; this project's code is
    installed again.

    The emulator's default CPU has SVE and SME, whose kernels ONNX Runtime then picks and which take
    ten times as long to emulate.
    """
    fetch(folder, mirror, "arm64", _ARM64_PACKAGES)
    python = next((folder / "root/usr/bin").glob("python3.*"))
    _install(folder, python.name.removeprefix("python"))
    emulator = str(folder / "emulator/usr/bin/qemu-aarch64")
    # The checksums that it remembers are its own.
    environment = {
        "PYTHONPATH": str(folder / "site"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Machine(
        [emulator, "-cpu", "cortex-a76", "-L", str(folder / "root"), str(python)], environment
    )


MACHINES: Mapping[str, Callable[[Path, str | None], Machine]] = {"arm64": arm64, "haswell": haswell}


def _install(folder: Path, version: str) -> None:
    """Install this project and its dependencies' arm64 wheels, at the releases that the tests run
    with; pip checks their hashes."""

    def pip(*arguments: str | Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)],
            check=True,
            stdout=sys.stderr,
        )

    shutil.rmtree(folder / "wheel", ignore_errors=True)
    pip("wheel", "--no-deps", "--wheel-dir", folder / "wheel", _ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    install = ("install", "--upgrade", "--target", folder / "site")
    complete = folder / "site/.complete"
    if complete.exists():
        pip(*install, "--no-deps", wheel)
        return
    platforms: list[str | Path] = [
        option for name in _ARM64_PLATFORMS for option in ("--platform", f"{name}_aarch64")
    ]
    fixed: list[str | Path] = [
        "--python-version",
        version,
        "--only-binary",
        ":all:",
        "--constraint",
        _ROOT / "constraints.txt",
    ]
    pip(*install, *platforms, *fixed, wheel)
    complete.touch()
