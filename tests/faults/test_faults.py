"""A few of the points that ``make faults`` tries of each scenario, drawn anew every day; a disk
that is really full."""

import datetime
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from faults import shim

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(bool(shim.missing()), reason=shim.missing())


def run(tmp_path, *words) -> dict:
    """The figures of a run of the harness, in which nothing went wrong."""
    paths = [TESTS, TESTS.parent / "tools", os.environ.get("PYTHONPATH", "")]
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "faults", *map(str, words), "--json", str(figures)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, paths)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}{done.stderr[-2000:]}"
    return json.loads(figures.read_text())["scenarios"]


def test_a_fault_at_any_operation_leaves_all_whole(tmp_path):
    """Four faults of all, another four tomorrow. Not of exports and tunings, which import torch and
    take long: those are in `make faults`, and the end of one in test_publish_races."""
    seed = datetime.datetime.now(tz=datetime.UTC).date().toordinal()
    faults = random.Random(seed).sample(list(shim.FAULTS), 4)
    words = [f"--fault={fault}" for fault in faults]
    scenarios = run(tmp_path, "--light", "--draw", 1, "--seed", seed, *words)
    for row in scenarios.values():
        assert row["operations"] >= 4
        assert row["tried"] == dict.fromkeys(faults, 1)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of so many bytes; only root can."""
    mounted = []

    def mount(size: int) -> Path:
        place = tmp_path / "disk"
        place.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(words, check=False).returncode:
            pytest.skip("only root mounts a disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("pages", [2, 5, 12, 40])
def test_a_disk_that_is_full(small_disk, tmp_path, monkeypatch, pages):
    """A web page of 60 pages of memory: nothing of it is left, and what was there stays."""
    from pocketvlm.errors import PocketVLMError
    from pocketvlm.files.folders import content_of, put_in_place, staged

    disk = small_disk(pages * 4096)
    place = disk / "site"
    place.mkdir()
    (place / "old.json").write_text("{}")
    before = content_of(place)

    def write() -> None:
        with staged(place) as folder:
            for number in range(60):
                (folder / f"{number}").write_bytes(bytes(4096))
            put_in_place(folder, place, before)

    with pytest.raises(PocketVLMError, match="no space left"):
        write()
    assert content_of(place) == before
    assert [path.name for path in disk.iterdir()] == ["site"]
