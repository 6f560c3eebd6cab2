"""Knows how an arm64 machine is put together without being one: an emulator, a Debian root and wheels, in one folder.

Everything comes from package indexes through their own clients, which check it: apt by signatures, pip by hashes.
Nothing is installed on this machine and nothing needs root; apt and dpkg-deb must be there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Debian 12's emulator (7.2) crashes as onnxruntime is imported; Debian 13 has 10.0.
_SUITE = "trixie"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = ("python3", "libstdc++6")
# A Raspberry Pi 5's. The emulator's default has SVE and SME, whose kernels ONNX Runtime then picks and which take ten
# times as long to emulate.
_CPU = "cortex-a76"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Machine:
    """An emulator with a root and Python packages; made once and kept."""

    folder: Path

    @property
    def command(self) -> list[str]:
        """What to put before arguments of Python."""
        python = next((self.folder / "root/usr/bin").glob("python3.*"))
        emulator = self.folder / "emulator/usr/bin/qemu-aarch64"
        return [str(emulator), "-cpu", _CPU, "-L", str(self.folder / "root"), str(python)]

    @property
    def environment(self) -> dict[str, str]:
        """Where its Python finds packages; the checksums it remembers are its own."""
        site, cache = str(self.folder / "site"), str(self.folder / "cache")
        return {**os.environ, "PYTHONPATH": site, "XDG_CACHE_HOME": cache, "PYTHONDONTWRITEBYTECODE": "1"}


def make_machine(folder: Path, mirror: str | None) -> Machine:
    """Fetch what is not there yet; this project's own code is installed anew every time."""
    folder = folder.resolve()
    machine = Machine(folder)
    if not (folder / "root/done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _fetch_debian(folder, mirror or _own_mirror())
        (folder / "root/done").touch()
    _install(folder, next((folder / "root/usr/bin").glob("python3.*")).name.removeprefix("python"))
    return machine


def _own_mirror() -> str:
    """The Debian archive that apt on this machine is set up with."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        if line.endswith(" Debian Debian"):
            return line.split()[0]
    raise SystemExit("apt knows no Debian archive here: run apt-get update, or give --mirror URI")


def _fetch_debian(folder: Path, mirror: str) -> None:
    """Unpack the emulator and the arm64 root; apt works in this folder alone and sees nothing as installed."""
    for name in ("apt/state/lists/partial", "apt/cache/archives/partial", "root/usr/lib", "root/usr/bin", "emulator"):
        (folder / name).mkdir(parents=True)
    (folder / "apt/state/status").touch()
    host = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    source = f"deb [signed-by={_KEYRING} arch=arm64,{host}] {mirror} {_SUITE} main\n"
    (folder / "apt/sources.list").write_text(source)
    settings = {
        "Dir::State": folder / "apt/state",
        "Dir::State::status": folder / "apt/state/status",
        "Dir::Cache": folder / "apt/cache",
        "Dir::Etc::sourcelist": folder / "apt/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::parts": "/dev/null",
        "APT::Architecture": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    lines = [f'{name} "{value}";\n' for name, value in settings.items()]
    (folder / "apt/apt.conf").write_text("".join(lines) + f'APT::Architectures {{ "arm64"; "{host}"; }};\n')

    def apt(*arguments: str, cwd: Path = folder) -> None:
        environment = {**os.environ, "APT_CONFIG": str(folder / "apt/apt.conf")}
        subprocess.run(["apt-get", "-q", *arguments], cwd=cwd, env=environment, check=True, stdout=sys.stderr)

    apt("update")
    apt("install", "--yes", "--download-only", *_PACKAGES)
    apt("download", f"qemu-user:{host}", cwd=folder / "apt")
    for name in ("lib", "bin"):  # programs look here; the package that makes these links is not among ours
        (folder / "root" / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "apt/cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
    (package,) = (folder / "apt").glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "emulator"], check=True)
    shutil.rmtree(folder / "apt")


def _install(folder: Path, version: str) -> None:
    """Install this project and its dependencies' arm64 wheels, at the releases that the tests run with."""

    def pip(*arguments: str | Path) -> None:
        subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True, stdout=sys.stderr)

    shutil.rmtree(folder / "wheel", ignore_errors=True)
    pip("wheel", "--no-deps", "--wheel-dir", folder / "wheel", _ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    install = ("install", "--upgrade", "--target", folder / "site")
    complete = folder / "site/.complete"
    if complete.exists():
        pip(*install, "--no-deps", wheel)
        return
    platforms: list[str | Path] = [option for name in _PLATFORMS for option in ("--platform", f"{name}_aarch64")]
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
