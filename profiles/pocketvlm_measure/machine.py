"""Knows the machine that is measured on: its CPU, what governs its clock, its other load, and the
versions at work."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pocketvlm.ort.settings import physical_cores

BUSY = 15.0  # per cent of all CPUs used by others, from which on figures are not to be trusted

STAT = Path("/proc/stat")  # where Linux counts what its CPUs did; elsewhere psutil is asked
_PACKAGES = ("pocketvlm", "onnxruntime", "numpy", "llama_cpp_python")


@dataclass(frozen=True)
class Machine:
    """What a measurement depends on beside the model.

    Attributes:
        cpu: as the system names it.
        cpus: hardware threads that this process may use.
        cores: of these, the physical ones.
        memory_bytes: main memory; None where the system does not state it.
        system: operating system and architecture.
        governor: what sets the clock rate, as Linux names it; None where there is none, as in
            virtual machines.
        other_load: per cent of all CPUs that others used just before; None where it cannot be
            measured.
        versions: of the packages at work, and of Python.
    """

    cpu: str
    cpus: int
    cores: int
    memory_bytes: int | None
    system: str
    governor: str | None
    other_load: float | None
    versions: Mapping[str, str]

    @classmethod
    def look(cls, seconds: float = 1.0) -> Machine:
        """Describe this machine; waits ``seconds`` to measure its other load."""
        return cls(
            cpu=_cpu_name(),
            cpus=len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1,
            cores=physical_cores(),
            memory_bytes=_memory(),
            system=f"{platform.system()} {platform.release()} {platform.machine()}",
            governor=_governor(),
            other_load=other_load(seconds),
            versions={name: release for name in _PACKAGES if (release := _installed(name))}
            | {"python": platform.python_version()},
        )

    def describe(self) -> str:
        """One line for people."""
        load = (
            "other load unknown"
            if self.other_load is None
            else f"other load {self.other_load:.0f} %"
        )
        memory = "" if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.0f} GB, "
        versions = ", ".join(f"{name} {release}" for name, release in self.versions.items())
        return (
            f"{self.cpu}, {self.cores} cores ({self.cpus} CPUs), {memory}{self.system}, "
            f"governor {self.governor or 'unknown'}, {load}; {versions}"
        )


class LoadWatch:
    """Measures how much of the machine others use from `__init__` to `other_load`, without this
    process."""

    def __init__(self) -> None:
        self._before, self._own = cpu_times(), time.process_time()

    def other_load(self) -> float | None:
        """Per cent of all CPUs; None where no time has passed that the system counts, in steps of
        10 ms."""
        after, own = cpu_times(), time.process_time() - self._own
        if after[1] <= self._before[1]:
            return None
        return max(0.0, 100 * (after[0] - self._before[0] - own) / (after[1] - self._before[1]))


def other_load(seconds: float) -> float | None:
    """Per cent of all CPUs that are used while this process waits ``seconds``; see `LoadWatch`."""
    watch = LoadWatch()
    time.sleep(seconds)
    return watch.other_load()


def cpu_times() -> tuple[float, float]:
    """(busy, all) seconds of all CPUs since the system started; psutil's except on Linux.

    On Linux, waiting for a disk counts as idle, and time that a virtual machine's host gave to
    others as busy: it could not be used.
    """
    if STAT.exists():
        ticks = [
            int(text) for text in STAT.read_text().split("\n", 1)[0].split()[1:9]
        ]  # user ... steal
        idle = ticks[3] + ticks[4]  # waiting for a disk is idle too
        scale = os.sysconf("SC_CLK_TCK")
        return (sum(ticks) - idle) / scale, sum(ticks) / scale
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle, sum(times)


def _cpu_name() -> str:
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return (
            subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            or "unknown"
        )
    for path, key in (
        ("/proc/cpuinfo", "model name"),
        ("/proc/device-tree/model", ""),
        ("/proc/cpuinfo", "Hardware"),
    ):
        try:
            lines = Path(path).read_text().replace("\0", "").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(key):
                return line.partition(":")[2].strip() if key else line.strip()
    return platform.processor() or platform.machine() or "unknown"


def _governor() -> str | None:
    governors = set()
    for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            governors.add(path.read_text().strip())
        except OSError:
            continue
    return ", ".join(sorted(governors)) or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
