"""Knows in which precision a decoder answers where none is asked for: two that answer together
where memory allows both, else the stated default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pocketvlm.artifact.manifest import Manifest
from pocketvlm.limits import SequenceLimits

MEMINFO = Path("/proc/meminfo")  # Linux
CGROUPS = Path("/sys/fs/cgroup")  # of a container, where it has limits
# Resident bytes per byte on disk. 4-bit matrices are packed again beside the mapped file, the most
# of any precision in a pair (measured with a decoder of 135M weights: 2.5, and 1.6 in 8 bits).
_RESIDENT = 2.5
_REST = 300_000_000  # bytes: Python and the libraries, and what a tower and a prefill compute
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Choice:
    """A decoder's precision, ``A+B`` where one prefills and another decodes, and why."""

    precision: str
    reason: str


def choose_precision(
    manifest: Manifest, engine: str, memory_limit: int | None = None, processes: int = 1
) -> Choice:
    """Return what an engine of the artifact answers in unless a precision is asked for.

    A pair is used if answering with both of its decoders, see `pair_bytes`, fits into
    ``memory_limit``, in MB (10^6 bytes); 0 means no limit. With None it must fit into each
    process's share of the free memory, of ``processes`` that load a model. Where neither is known
    it is not.
    """
    decoder = manifest.decoder
    default = decoder.default_precisions[engine]
    if not decoder.pair_of(engine):
        return Choice(default, "the artifact's default")
    limit = None if memory_limit is None else memory_limit * 1_000_000
    free = "are free" if processes == 1 else f"are free for each of {processes} processes"
    room, allowed_by = (
        (_free_for(processes), free) if limit is None else (limit, "are the memory limit")
    )
    needed = pair_bytes(manifest)
    if limit == 0:
        return Choice(decoder.pair, "no memory limit")
    if room is None:
        return Choice(
            default, f"{decoder.pair} is not tried: this system does not say what is free"
        )
    fits = needed <= room
    compared = f"takes about {needed / 1e6:.0f} MB, and {room / 1e6:.0f} MB {allowed_by}"
    if fits:
        return Choice(decoder.pair, f"{decoder.pair} {compared}")
    return Choice(default, f"{decoder.pair} {compared}: too little")


def pair_bytes(manifest: Manifest) -> int:
    """Bytes of memory that answering with both decoders of the pair takes at most, about.

    Beside the decoders these are a tower of each medium, its selector where the question selects,
    the tables, a full context, and the sequences that are kept by default.
    """
    decoder = manifest.decoder
    reading, _, writing = decoder.pair.partition("+")
    graphs = {decoder.graphs[reading], decoder.graphs[writing]}
    tables = {decoder.embed[decoder.tables[writing]]}
    for vision in (manifest.vision, *(medium.vision for medium in manifest.media.values())):
        towers = [by_precision[vision.default_precision] for by_precision in vision.graphs.values()]
        graphs.update(towers[:1], list(vision.selectors.values())[:1])
        if vision.selectors:
            tables.add(decoder.embed[vision.selector_table])
    token = 2 * _FLOAT * len(decoder.attention_layers) * decoder.kv_heads * decoder.head_dim
    context, limits = token * decoder.context, SequenceLimits()
    kept = min(limits.kept * context, limits.memory_bytes)
    opened = int(_RESIDENT * sum(manifest.bytes_of(graph) for graph in graphs))
    mapped = sum(manifest.bytes_of(table) for table in tables)
    return opened + mapped + 2 * context + kept + _REST  # of a step and of the one before


def free_memory() -> int | None:
    """Bytes that this process may still take without pushing others out, None where the system does
    not say."""
    bounds = [each for each in (_available(), _left_in_container()) if each is not None]
    return min(bounds, default=None)


def _free_for(processes: int) -> int | None:
    free = free_memory()
    return None if free is None else free // processes


def _available() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
        stated = {name: value for name, _, value in (line.partition(":") for line in lines)}
        return int(stated["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return _available_elsewhere()


def _available_elsewhere() -> int | None:
    """psutil's figure, where it is installed."""
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _left_in_container() -> int | None:
    """What a control group (version 2, or 1) leaves, where it has a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return max(int((CGROUPS / limit).read_text()) - int((CGROUPS / used).read_text()), 0)
        except (OSError, ValueError):  # ValueError: "max", which is none
            continue
    return None
