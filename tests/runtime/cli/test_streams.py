"""Standard streams that are closed, full, cut off or marked: files are written all the same, and
the exit code says whether the output got lost."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from support.processes import run_module
from support.tiny_artifact import write_artifact

LOST = "error: standard output cannot be written ({})\n"
CLOSED, FULL = LOST.format("it is closed"), LOST.format("No space left on device")
# The streams that a process is given, and how it must end: (exit code, standard error).
WAYS = {
    "all open": ({}, 0, ""),
    "no input": ({"stdin": None}, 0, ""),
    "no output": ({"stdout": None}, 1, CLOSED),
    "no error": ({"stderr": None}, 0, ""),
    "nothing": ({"stdin": None, "stdout": None, "stderr": None}, 1, ""),
    "full output": ({"stdout": "/dev/full"}, 1, FULL),
    "full error": ({"stderr": "/dev/full"}, 0, ""),
}
COMMANDS = ["run", "chat", "inspect", "verify", "targets", "evaluate", "questions", "--help"]


MARK = b"\xef\xbb\xbf"
_LINES = [b"/image p.png", b"what?", b"/reset", "wie heißt?".encode()]
# Lines for `chat` that say the same.
LINES = {
    "plain lines": b"\n".join(_LINES),
    "marked lines": MARK + b"\r\n".join(_LINES),
    "each line marked": b"".join(MARK + line + b"\n" for line in _LINES),
}
WIDE = "cannot be read (it is UTF-16 or UTF-32: save it as UTF-8)"
# Input for `run --prompt -`, None where it is closed, and why it is refused.
REFUSED = {
    "utf-16": ("what?\n".encode("utf-16"), WIDE),
    "utf-16-be without a mark": ("what?\n".encode("utf-16-be"), WIDE),
    "utf-32": ("what?\n".encode("utf-32"), WIDE),
    "latin-1": (b"hei\xdft es?\n", "is not valid utf-8 (invalid continuation byte): give text"),
    "closed": (None, "is closed: give the text as an option"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("streams") / "artifact"
    write_artifact(root)
    return root


@pytest.fixture(scope="module")
def ended(tiny):
    """{name: exit code} of every command in every way, and the folder of what they wrote."""
    folder = tiny.parent
    Image.fromarray(np.full((8, 9, 3), 100, dtype=np.uint8)).save(folder / "p.png")
    row = {"image": "p.png", "question": "what?", "answers": ["red"]}
    (folder / "set.jsonl").write_text(json.dumps(row) + "\n")
    label = {"question_id": 1, "image": "p.png", "text": "what?", "label": "no"}
    (folder / "coco_pope_random.json").write_text(json.dumps(label) + "\n")
    (folder / "lines.txt").write_text("/image p.png\nwhat?\n")
    cases = [
        {"name": name, "argv": arguments(command, name), "streams": streams}
        for command, (way, (streams, _, _)) in itertools.product(COMMANDS, WAYS.items())
        for name in [f"{command} {way}"]
    ]
    for case in cases:
        if case["name"].startswith("chat"):
            case["streams"] = {"stdin": "lines.txt"} | case["streams"]
    for name, text in LINES.items():
        (folder / name).write_bytes(text)
        argv = ["chat", "artifact", "--max-new-tokens", "3", "--json"]
        cases.append({"name": name, "argv": argv, "streams": {"stdin": name}})
    for name, (text, _) in REFUSED.items():
        (folder / name).write_bytes(text or b"")
        argv = ["run", "artifact", "--prompt", "-"]
        given = None if text is None else name
        cases.append({"name": name, "argv": argv, "streams": {"stdin": given}})
    done = run_module(
        "support.stream_cases", folder, input=json.dumps(cases), cwd=folder, timeout=500
    )
    assert not list(folder.glob("*.traceback")), next(folder.glob("*.traceback")).read_text()
    return json.loads(done.stdout), folder


def arguments(command: str, name: str) -> list[str]:
    answering = ["--max-new-tokens", "2", "--threads", "1"]
    files = ["--answers", f"{name}.jsonl", "--json", f"{name}.json"]
    pope = ["pope", "coco_pope_random.json", "--images", "."]
    return {
        "run": ["run", "artifact", "--image", "p.png", "--prompt", "hi", *answering],
        "chat": ["chat", "artifact", *answering],
        "inspect": ["inspect", "artifact"],
        "verify": ["verify", "artifact"],
        "targets": ["targets"],
        "evaluate": ["evaluate", "artifact", "--data", "set.jsonl", *files, *answering],
        "questions": ["questions", *pope, "-o", f"{name}.set"],
        "--help": ["--help"],
    }[command]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_as_its_streams_allow(ended, command, way):
    codes, folder = ended
    name, (streams, code, errors) = f"{command} {way}", WAYS[way]
    if command == "chat" and "stdin" in streams:
        code, errors = 0, ""  # nothing was asked, so nothing got lost
    assert codes[name] == code
    texts = {
        stream: (folder / f"{name}.{stream}").read_text()
        for stream in ("stdout", "stderr")
        if stream not in streams
    }
    assert texts.get("stderr", "") == errors
    if "stdout" not in streams and not (command == "chat" and "stdin" in streams):
        expected = (folder / f"{command} all open.stdout").read_text()
        assert expected
        # Times and names differ.
        assert len(texts["stdout"].splitlines()) == len(expected.splitlines())
    if command == "evaluate":
        assert len((folder / f"{name}.jsonl").read_text().splitlines()) == 2
        assert json.loads((folder / f"{name}.json").read_text())
    if command == "questions":
        assert json.loads((folder / f"{name}.set").read_text())["answers"] == ["no"]


def started(*arguments, folder, shell_end=""):
    """A real process, of a shell that may close its streams."""
    command = [sys.executable, "-m", "pocketvlm", *map(str, arguments)]
    return subprocess.Popen(
        ["sh", "-c", f'"$@" {shell_end}', "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )


def test_a_profile_without_any_stream_writes_its_file(tiny):
    options = ["--repeat", 1, "--warmup", 0, "--new-tokens", 2, "-o", "profile.jsonl"]
    process = started("profile", tiny, *options, folder=tiny.parent, shell_end="<&- >&- 2>&-")
    process.communicate(timeout=200)
    assert process.returncode == 1
    assert (tiny.parent / "profile.jsonl").read_text().startswith("{")


def test_a_conversation_that_nobody_reads_ends(tiny):
    process = started("chat", tiny, "--max-new-tokens", 2, folder=tiny.parent)
    process.stdout.close()
    process.stdin.write(b"what?\n" * 100)
    process.stdin.close()
    assert process.wait(timeout=200) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("name", LINES)
def test_a_mark_before_a_line_is_no_part_of_it(ended, name):
    codes, folder = ended
    assert codes[name] == 0

    def answers(name):
        lines = (folder / f"{name}.stdout").read_text().splitlines()
        return [(json.loads(line)["text"], json.loads(line)["prompt_tokens"]) for line in lines]

    assert len(answers("plain lines")) == 2
    assert answers(name) == answers("plain lines")


@pytest.mark.parametrize("name", REFUSED)
def test_input_that_is_no_text_is_refused(ended, name):
    codes, folder = ended
    assert codes[name] == 1
    assert (folder / f"{name}.stdout").read_text() == ""
    reason = REFUSED[name][1]
    assert (folder / f"{name}.stderr").read_text() == f"error: standard input {reason}\n"
