"""Knows how to get an emulator, and a root for another architecture, out of a Debian archive into
one folder.

apt works in that folder alone and checks signatures; nothing is installed on this machine and
nothing needs root; apt and dpkg-deb must be there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Debian 12's emulator (7.2) crashes as onnxruntime is imported; Debian 13 has 10.0.
_SUITE = "trixie"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def fetch(
    folder: Path,
    mirror: str | None,
    architecture: str | None = None,
    packages: Sequence[str] = (),
    *,
    emulated: bool = True,
) -> None:
    """Unpack ``packages`` of ``architecture``, with what they need, into ``folder``/root, and
    qemu-user into ``folder``/emulator where the CPU is to be ``emulated``; once."""
    if (folder / "done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    host = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    ).stdout.strip()
    _unpack(folder, mirror or _own_mirror(), host, architecture or host, packages, emulated)
    (folder / "done").touch()


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


def _unpack(
    folder: Path,
    mirror: str,
    host: str,
    architecture: str,
    packages: Sequence[str],
    emulated: bool,
) -> None:
    """See `fetch`; apt sees nothing as installed."""
    for name in (
        "apt/state/lists/partial",
        "apt/cache/archives/partial",
        "root/usr/lib",
        "root/usr/bin",
        "emulator",
    ):
        (folder / name).mkdir(parents=True)
    (folder / "apt/state/status").touch()
    both = ",".join(dict.fromkeys((architecture, host)))
    source = f"deb [signed-by={_KEYRING} arch={both}] {mirror} {_SUITE} main\n"
    (folder / "apt/sources.list").write_text(source)
    settings = {
        "Dir::State": folder / "apt/state",
        "Dir::State::status": folder / "apt/state/status",
        "Dir::Cache": folder / "apt/cache",
        "Dir::Etc::sourcelist": folder / "apt/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::parts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    lines = [f'{name} "{value}";\n' for name, value in settings.items()]
    (folder / "apt/apt.conf").write_text(
        "".join(lines) + f'APT::Architectures {{ "{architecture}"; "{host}"; }};\n'
    )

    def apt(*arguments: str, cwd: Path = folder) -> None:
        environment = {**os.environ, "APT_CONFIG": str(folder / "apt/apt.conf")}
        subprocess.run(
            ["apt-get", "-q", *arguments], cwd=cwd, env=environment, check=True, stdout=sys.stderr
        )

    apt("update")
    if packages:
        apt("install", "--yes", "--download-only", *packages)
    if emulated:
        apt("download", f"qemu-user:{host}", cwd=folder / "apt")
    for name in (
        "lib",
        "bin",
    ):  # programs look here; the package that makes these links is not among ours
        (folder / "root" / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "apt/cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "root"], check=True)
        package.unlink()  # a compiler is half a gigabyte packed
    for package in (folder / "apt").glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder / "emulator"], check=True)
    shutil.rmtree(folder / "apt")
