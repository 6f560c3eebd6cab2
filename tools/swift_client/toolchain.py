"""Knows a Swift compiler that is not installed: Debian 13's, unpacked into a folder beside the
system, and how a program of it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from other_cpu.debian import fetch

PACKAGES = ("swiftlang", "libc6-dev", "libstdc++-14-dev")  # it only recommends the latter two
HOME = Path.home() / ".cache" / "pocketvlm" / "swift"
# Not needed to compile for this machine: the debugger, servers of editors, documents.
_DROPPED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/libexec/swift/bin/lldb*",
    "usr/libexec/swift/bin/sourcekit-lsp",
    "usr/libexec/swift/bin/clangd",
    "usr/libexec/swift/bin/docc",
    "usr/libexec/swift/bin/swift-package",
    "usr/libexec/swift/lib/liblldb.so*",
    "usr/libexec/swift/lib/libsourcekitdInProc.so",
    "usr/libexec/swift/lib/libLTO.so*",
    "usr/libexec/swift/lib/swift_static",
)


# The compiler finds its files by /proc/self/exe.
_ENTER = 'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'


class SwiftError(Exception):
    """The compiler refused, with what it printed."""


@dataclass(frozen=True)
class Toolchain:
    """A root in which swiftc runs; paths of its arguments are those within."""

    root: Path

    @classmethod
    def fetched(cls, folder: Path = HOME, mirror: str | None = None) -> Toolchain:
        """Download and unpack it, once: half a gigabyte, 2.5 unpacked."""
        if not (folder / "done").exists():
            fetch(folder, mirror, packages=PACKAGES, emulated=False)
            for pattern in _DROPPED:
                for path in (folder / "root").glob(pattern):
                    is_folder = path.is_dir() and not path.is_symlink()
                    shutil.rmtree(path) if is_folder else path.unlink()
        toolchain = cls(folder / "root")
        toolchain._prepare()
        return toolchain

    @classmethod
    def unpacked(cls, folder: Path = HOME) -> Toolchain | None:
        """The one that was fetched before; None without."""
        if not (folder / "done").exists():
            return None
        return cls.fetched(folder)

    def _prepare(self) -> None:
        """What its packages do not bring: folders, and links from before /usr was everything."""
        for name in ("tmp", "dev", "proc", "build", "root"):
            (self.root / name).mkdir(exist_ok=True)
        for name in ("lib64", "sbin"):
            target = self.root / "usr" / name
            if target.exists() and not (self.root / name).exists():
                (self.root / name).symlink_to(f"usr/{name}")

    @property
    def build(self) -> Path:
        """Where sources go: ``/build`` within."""
        return self.root / "build"

    def swiftc(self, *arguments: str) -> str:
        """Compile; what the compiler printed, warnings.

        Raises:
            SwiftError: it refused.
        """
        done = subprocess.run(
            [*self._within(), "/usr/bin/swiftc", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                "LANG": "C.UTF-8",
                "TMPDIR": "/tmp",
            },
        )
        if done.returncode:
            raise SwiftError(f"swiftc failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def _within(self) -> list[str]:
        """Run in the root, with /proc and /dev, mounted where nobody else sees it."""
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", *own, "--mount", "sh", "-c", _ENTER, str(self.root)]

    def command(self, program: Path, *arguments: str) -> Sequence[str]:
        """How a compiled program is called outside of the root: with its libraries, this machine's
        files."""
        libraries = [
            *self.root.glob("usr/lib/*-linux-gnu"),
            self.root / "usr/libexec/swift/lib/swift/linux",
        ]
        (loader,) = self.root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
        paths = ":".join(map(str, libraries))
        return [str(loader), "--library-path", paths, str(program), *arguments]
