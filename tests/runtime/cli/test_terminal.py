"""No command lets the words of an artifact, a model, a file or a set of questions steer a
terminal."""

import ast
import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvlm import VLM, Sampling, cli
from pocketvlm.cli import terminal
from support.tiny_artifact import read_manifest, write_manifest

ROOT = Path(__file__).parents[3]
CLIPBOARD = "\x1b]52;c;aGk=\x07"  # what sets the clipboard of many terminals
STEERING = [
    chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E, 0x2066, 0xFEFF)
]
KEPT = "é 木　\u00a0👨\u200d👩\u200d👧 می\u200cخواهم \U0001fae8 \u0e33"


@pytest.fixture
def steering_dir(artifact_dir):
    """An artifact whose every word is a control sequence."""
    file = artifact_dir / "tokenizer.json"
    data = json.loads(file.read_text())
    step = {"type": "Replace", "pattern": {"Regex": "[^▁]"}, "content": CLIPBOARD}
    data["decoder"] = {"type": "Sequence", "decoders": [data["decoder"], step]}
    file.write_text(json.dumps(data))
    manifest = read_manifest(artifact_dir)
    manifest["source"] |= {"model": f"good{CLIPBOARD}\x9b2J\u202e", "license": "MIT\r\n\x1b[2J"}
    write_manifest(artifact_dir, manifest)
    return artifact_dir


def assert_harmless(text, *, but="\n\t"):
    assert [character for character in text if character in STEERING and character not in but] == []


@given(st.text() | st.text(st.sampled_from([*STEERING, *KEPT])))
@settings(max_examples=300)
def test_lines_for_people_hold_nothing_that_steers(text):
    line, lines = terminal.printable(text), terminal.printable_lines(text)
    assert_harmless(line, but="")
    assert_harmless(lines)
    assert line == lines.replace("\n", "").replace("\t", "")
    categories = set(map(unicodedata.category, lines.replace("\n", "").replace("\t", "")))
    assert not categories & {"Cc", "Cs", "Zl", "Zp"}


def test_letters_and_emoji_stay_as_they_are():
    assert terminal.printable(KEPT) == terminal.printable_lines(KEPT) == KEPT


@given(st.recursive(st.text(), lambda inner: st.dictionaries(st.text(), inner, max_size=3)))
@settings(max_examples=200)
def test_json_is_escaped_and_means_the_same(data):
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", written)
        terminal.echo_json(data)
    assert_harmless(written.getvalue(), but="\n")
    assert json.loads(written.getvalue()) == data
    written.getvalue().encode()  # half characters too


class Screen(io.StringIO):
    def isatty(self):
        return True


@given(st.lists(st.integers(1, 4), max_size=12))
@settings(max_examples=100)
def test_a_sequence_in_several_pieces_is_none_on_a_terminal(sizes):
    answer = f" a{CLIPBOARD}b\x1b[2Jc\x9b1m\r\nd\te"
    pieces = []
    for size in [*sizes, len(answer)]:
        pieces.append(answer[:size])
        answer = answer[size:]
    shown, written = Screen(), io.StringIO()
    for stream in (shown, written):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            terminal.print_pieces(pieces)
    assert shown.getvalue() == "a]52;c;aGk=b[2Jc1m\nd\te\n"
    assert written.getvalue() == f"a{CLIPBOARD}b\x1b[2Jc\x9b1m\r\nd\te\n"  # as the model wrote it


def on_a_terminal(*arguments, typed=""):
    """All that the command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pocketvlm", *map(str, arguments)]
    source = subprocess.PIPE if typed else theirs
    process = subprocess.Popen(command, stdin=source, stdout=theirs, stderr=theirs)
    os.close(theirs)
    if typed:
        process.stdin.write(typed.encode())
        process.stdin.close()
    written = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        written += data
    os.close(ours)
    assert process.wait(timeout=60) == 0, written
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("command", ["run", "chat"])
def test_answers_do_not_steer_a_terminal(command, steering_dir):
    question = ["--prompt", "what?"] if command == "run" else []
    typed = "" if question else "what?\n"
    written = on_a_terminal(command, steering_dir, *question, "--max-new-tokens", 6, typed=typed)
    assert "]52;c;aGk=" in written
    assert_harmless(written)


def test_into_a_pipe_an_answer_goes_as_the_model_gave_it(steering_dir):
    expected = VLM.load(steering_dir).generate("what?", sampling=Sampling(max_new_tokens=6)).text
    assert CLIPBOARD in expected
    result = run("run", steering_dir, "--prompt", "what?", "--max-new-tokens", 6)
    assert result.stdout == expected + "\n"
    result = run("run", steering_dir, "--prompt", "what?", "--max-new-tokens", 6, "--json")
    assert_harmless(result.stdout)
    assert json.loads(result.stdout)["text"] == expected


def run(*arguments):
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "json"])
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_facts_of_an_artifact_do_not_steer_a_terminal(command, form, steering_dir):
    result = run(command, steering_dir, *form)
    assert_harmless(result.stdout + result.stderr)


def test_a_set_of_questions_does_not_steer_a_terminal(steering_dir, tmp_path, picture):
    pytest.importorskip("scipy")
    name = f"a{CLIPBOARD}\x1b[2J.png"
    Image.fromarray(picture).save(tmp_path / name, "PNG")
    rows = [{"image": name, "question": "what?\x1b[2J", "answers": [f"a{CLIPBOARD}"]}]
    rows += [{"image": f"none{CLIPBOARD}.png", "question": "what?", "answers": ["\x1b[2J"]}]
    data, answers = tmp_path / "set.jsonl", tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["evaluate", steering_dir, "--data", data, "--answers", answers]
    result = CliRunner().invoke(
        cli.main, [*map(str, arguments), "--max-new-tokens", "4", "--broken", "skip"]
    )
    assert_harmless(result.stdout + result.stderr)
    assert result.exit_code == 0, result.output
    kept = json.loads(answers.read_text().splitlines()[-1])
    assert CLIPBOARD in json.dumps(kept, ensure_ascii=False).encode().decode("unicode_escape")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", f"no{CLIPBOARD}", "--prompt", "x"],
        ["inspect", f"no{CLIPBOARD}"],
        ["targets", f"no{CLIPBOARD}"],
        ["run", "DIR", f"--no{CLIPBOARD}"],
        ["run", "DIR", "--prompt", "x", "--max-new-tokens", CLIPBOARD],
        [f"no{CLIPBOARD}"],
    ],
)
def test_refusals_do_not_steer_a_terminal(arguments, artifact_dir):
    given = [str(artifact_dir) if argument == "DIR" else argument for argument in arguments]
    result = CliRunner().invoke(cli.main, given)
    assert result.exit_code in (1, 2)
    assert_harmless(result.stdout + result.stderr)


def test_commands_write_through_this_module_alone():
    """What steers a terminal is taken out at one place."""
    others = []
    for package in ("runtime/pocketvlm", "exporter/pocketvlm_export", "profiles"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                written = isinstance(node, ast.Attribute) and ast.unparse(node) in (
                    *("click.echo", "click.secho", "click.echo_via_pager", "click.progressbar"),
                    *("tqdm.write", "click.prompt", "click.confirm"),
                )
                if written and file != Path(terminal.__file__):
                    others.append(f"{file}:{node.lineno}")
    assert others == []


def test_what_is_quoted_in_a_log_steers_no_terminal():
    code = """
import logging
from pocketvlm.cli.terminal import begin_log
begin_log()
log = logging.getLogger("server")
log.info("not this")
try:
    raise ValueError("quoted: \\x1b[2J\\u202e")
except ValueError:
    log.exception("an answer failed")
"""
    command = [sys.executable, "-X", "utf8", "-c", code]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    lines = done.stderr.splitlines()
    assert lines[:2] == ["server: an answer failed", "Traceback (most recent call last):"]
    assert lines[-1].startswith("ValueError: quoted: ")
    assert not {"\x1b", "\u202e"} & set(done.stderr)
