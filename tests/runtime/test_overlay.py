"""A destination in a lower layer of an overlay, as a container's image has, is refused before any
work and stays as it is; one in the upper layer is replaced."""

import subprocess
import sys
from pathlib import Path

import pytest

# It has mounts of its own, which end with it.
PROGRAM = """
import subprocess, sys
from pathlib import Path
from pocketvlm.errors import RequestError
from pocketvlm.files import folders
from pocketvlm.files.folders import content_of, put_in_place, staged

root, way = Path(sys.argv[1]), sys.argv[2]
def run(*command):
    if subprocess.run(command, capture_output=True).returncode:
        raise SystemExit(77)
run("mount", "-t", "tmpfs", "tmpfs", root)
for name in ("lower/out/old", "lower/out/old/inner", "lower/out/empty", "upper", "work", "merged"):
    (root / name).mkdir(parents=True)
for name in ("old/file", "old/inner/file"):
    (root / "lower/out" / name).write_text("old")
layers = f"lowerdir={root}/lower,upperdir={root}/upper,workdir={root}/work,userxattr"
run("mount", "-t", "overlay", "overlay", "-o", layers, root / "merged")

def replace(destination):
    before = content_of(destination)
    with staged(destination) as folder:
        print("at work on", destination.name)
        (folder / "file").write_text("new")
        put_in_place(folder, destination, before)

if way == "late":  # as if it had not been looked at before
    folders._check_movable = lambda *_: None
if way == "two steps":
    folders._check_movable = folders.exchange = lambda *_: None
out = root / "merged/out"
(out / "new").mkdir()
(out / "new/file").write_text("old")
for name in ("old", "new", "empty", "absent"):
    try:
        replace(out / name)
    except RequestError as error:
        print(error)
    print(name, (out / name / "file").read_text())
print((out / "old/inner/file").read_text(), *sorted(path.name for path in out.iterdir()))
"""
REFUSED = (
    "{} is not renamed by its disk, as in a lower layer of an overlay (a container's image): "
    "choose another folder, or remove that one first"
)


@pytest.mark.parametrize("way", ["early", "late", "two steps"])
def test_a_folder_in_a_lower_layer_stays_whole(tmp_path: Path, way: str):
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", PROGRAM]
    try:
        done = subprocess.run(
            [*command, tmp_path, way], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if way != "early":
        assert lines.pop(0) == "at work on old"
    assert lines == [
        REFUSED.format(tmp_path / "merged/out/old"),
        "old old",
        *("at work on new", "new new", "at work on empty", "empty new"),
        *("at work on absent", "absent new", "old absent empty new old"),
    ]
