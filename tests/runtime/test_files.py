"""Files appear whole or not at all, through no link and for nobody else than they are meant for;
and every module that writes one does so through the same two functions."""

import ast
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pocketvlm.files import (
    fresh_name,
    leftovers,
    private_folder,
    replace_file,
    replace_private,
)
from pocketvlm.files.flock import try_lock

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
WRITERS = [replace_file, replace_private]


@pytest.fixture(params=[0o000, 0o022, 0o027, 0o077, 0o777])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("write", WRITERS)
def test_the_content_is_replaced_and_nothing_lies_beside(tmp_path, write):
    path = tmp_path / "a.json"
    for content in (b"one", b"", b"another" * 100_000):
        write(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a b", ".hidden", "a\nb", "*[a]?"])
def test_names(tmp_path, write, name):
    write(tmp_path / name, b"content")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"content")]


@posix
def test_what_people_ask_for_has_the_umasks_permissions_or_those_it_had(tmp_path, umask):
    path = tmp_path / "a.json"
    replace_file(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    for mode in (0o600, 0o640, 0o755):
        path.chmod(mode)
        replace_file(path, b"other")
        assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_cache_is_private_whatever_the_umask(tmp_path, umask):
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    private_folder(there / "a" / "b")
    private_folder(there / "a" / "b")
    replace_private(there / "a" / "b" / "file", b"content")
    modes = [there, there / "a", there / "a" / "b", there / "a" / "b" / "file"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in modes] == [0o755, 0o700, 0o700, 0o600]


def test_no_folder_where_a_file_is(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            private_folder(folder)


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_that_lies_in_wait_is_not_written_through(tmp_path, write, monkeypatch):
    """Even one with the very name that is chosen."""
    mine, path = tmp_path / "mine", tmp_path / "a.json"
    mine.write_text("mine")
    chosen = tmp_path / ".a.json.0123456789abcdef.tmp"
    chosen.symlink_to(mine)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0123456789abcdef")
    with pytest.raises(FileExistsError):
        write(path, b"secret")
    assert mine.read_text() == "mine"
    assert not path.exists()


def test_names_beside_cannot_be_known_beforehand(tmp_path):
    names = {fresh_name(tmp_path / "a.json", ".tmp") for _ in range(100)}
    assert len(names) == 100
    assert str(os.getpid()) not in {path.name.split(".")[3] for path in names}


def test_a_link_at_the_place_itself(tmp_path):
    """What a person names is written where it points; in a cache the link goes."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    replace_private(link, b"private")
    assert not link.is_symlink()
    assert target.read_text() == "new"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="symbolic links"):
        replace_file(loop, b"new")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_device_or_pipe_is_written_to_and_stays(tmp_path):
    pipe, content = tmp_path / "pipe", b"content" * 50_000
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    replace_file(pipe, content)
    reader.join()
    assert read == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    replace_file(Path(os.devnull), content)
    assert Path(os.devnull).is_char_device()
    command = "from pathlib import Path; from pocketvlm.files import replace_file as r; "
    code = f"{command}r(Path('/dev/stdout'), b'to stdout')"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"to stdout"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("operation", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "no space"), OSError(errno.EIO, "bad disk"), KeyboardInterrupt()],
    ids=repr,
)
def test_what_goes_wrong_leaves_the_old_file_and_nothing_beside(
    tmp_path, monkeypatch, write, operation, error
):
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o600)

    def fail(*_):
        raise error

    if operation == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    elif operation == "write" or write is replace_private:  # which does not wait for the disk
        monkeypatch.setattr(Path, "chmod", fail)  # the last thing before it is written
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write(path, b"new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys
from pathlib import Path
from pocketvlm import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    getattr(files, sys.argv[1])(Path(sys.argv[2]), bytes(5000))
except OSError as error:
    print(error.strerror)
"""


@posix
@pytest.mark.parametrize("write", WRITERS)
def test_a_real_limit_of_the_disk(tmp_path, write):
    path = tmp_path / "a.json"
    path.write_text("old")
    command = [sys.executable, "-c", FULL, write.__name__, str(path)]
    assert subprocess.check_output(command, text=True) == "File too large\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path, write):
    path = tmp_path / "a.json"
    left, living = fresh_name(path, ".tmp"), fresh_name(path, ".tmp")
    others = [tmp_path / ".a.json.1234.tmp", tmp_path / "thesis.tmp", fresh_name(path, ".old")]
    others.append(fresh_name(tmp_path / "b.json", ".tmp"))
    for file in (left, living, *others):
        file.write_text("half")
        os.utime(file, (1, 1))
    assert leftovers(path, ".tmp") == sorted([left, living])
    with living.open() as stream:
        try_lock(stream.fileno())
        write(path, b"new")
        assert set(tmp_path.iterdir()) == {path, living, *others}
    write(path, b"newer")
    assert set(tmp_path.iterdir()) == {path, *others}


# Modules that write otherwise than by pocketvlm.files, and why they may.
STAGED = "into the folder of an export, which appears as a whole"
DIRECTLY = {
    "exporter/pocketvlm_export/checkpoint/allowed.py": "a folder of its own, for a moment",
    "exporter/pocketvlm_export/build.py": STAGED,
    "exporter/pocketvlm_export/calibration.py": STAGED,
    "exporter/pocketvlm_export/gguf/write.py": STAGED,
    "exporter/pocketvlm_export/kept_files.py": "into a folder that appears as a whole",
    "exporter/pocketvlm_export/onnx_passes/external_weights.py": STAGED,
    "exporter/pocketvlm_export/ort_format.py": STAGED,
    "exporter/pocketvlm_export/packaging/card.py": STAGED,
    "exporter/pocketvlm_export/packaging/manifest.py": STAGED,
    "exporter/pocketvlm_export/packaging/rejected.py": "a copy on another disk",
    "exporter/pocketvlm_export/packaging/sidecars.py": STAGED,
    "exporter/pocketvlm_export/packaging/using.py": STAGED,
    "exporter/pocketvlm_export/selftest/make.py": STAGED,
    "profiles/pocketvlm_measure/line_file.py": "a journal grows, line by line",
    "profiles/pocketvlm_measure/tune/reduced.py": "into a folder that appears as a whole",
    "runtime/pocketvlm/files/__init__.py": "it is the one place",
    "runtime/pocketvlm/files/folders.py": "it makes that folder",
    "runtime/pocketvlm/files/locks.py": "an empty file, which is locked",
    "runtime/pocketvlm/web/libraries.py": "into a folder that appears as a whole",
    "runtime/pocketvlm/web/sites.py": "into a folder that appears as a whole",
}
# Calls that write, by the last part of their name. `open` counts where its mode does.
WRITING = {
    *("write_bytes", "savetxt", "savez", "to_csv", "tofile", "memmap"),
    *("copyfile", "copy2", "copytree", "move", "symlink_to", "mkstemp"),
    *("NamedTemporaryFile", "save_pretrained", "save_file", "save_model", "touch", "GGUFWriter"),
}
SAVING = {"save", "savefig", "dump"}  # of a library, where the first argument is not an open file
IN_MEMORY = {"encoded", "file", "stream", "sys.stdout", "tensors"}
MODES = set("wax+")


def writes(tree):
    """The line and name of every call in a module that writes a file by itself."""
    makes_files = any(flag in ast.unparse(tree) for flag in ("O_CREAT", "O_WRONLY", "O_TRUNC"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        arguments = [ast.unparse(argument) for argument in node.args]
        given = [*node.args, *(k.value for k in node.keywords if k.arg in ("mode", "flags"))]
        constants = [
            part.value
            for value in given
            for part in ast.walk(value)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        opens = name in {"open", "fdopen"} and any(
            set(mode) <= set("rwaxbt+") and MODES & set(mode) for mode in constants
        )
        saves = name in SAVING and not IN_MEMORY & set(arguments)
        opens |= ast.unparse(node.func) == "os.open" and makes_files
        # A path's method; the function of this name is built on `replace_file`.
        texts = name == "write_text" and isinstance(node.func, ast.Attribute)
        if name in WRITING or texts or opens or saves:
            yield node.lineno, name


def test_the_scan_sees_every_way_of_writing():
    code = """
open(p, "w"); open(p, mode="ab"); path.open("r+b"); np.save(p, x); image.save(p)
json.dump(x, f); shutil.move(a, b); os.open(p, O_CREAT); p.write_text(x); p.open("wb" if a else "r")
open(p); path.open("rb"); json.dump(x, sys.stdout); image.save(encoded)
"""
    assert [line for line, _ in writes(ast.parse(code))].count(2) == 5
    assert [line for line, _ in writes(ast.parse(code))].count(3) == 5
    assert [line for line, _ in writes(ast.parse(code))].count(4) == 0


def test_every_file_is_written_by_the_two_functions():
    wrote = {}
    for folder in ("runtime", "exporter", "profiles"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            calls = sorted(writes(ast.parse(path.read_text(encoding="utf-8"))))
            if calls:
                wrote[path.relative_to(ROOT).as_posix()] = calls
    unexpected = {path: calls for path, calls in wrote.items() if path not in DIRECTLY}
    assert unexpected == {}
    assert set(DIRECTLY) == set(wrote), "the list names a module that writes nothing"
