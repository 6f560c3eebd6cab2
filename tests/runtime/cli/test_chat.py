"""`pocketvlm chat`: lines from a pipe, a terminal, Ctrl-C."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pocketvlm import VLM, Sampling, cli
from support.processes import heed_interrupts


@pytest.fixture
def image_file(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def other_file(tmp_path, picture):
    Image.fromarray(np.ascontiguousarray(255 - picture[::-1])).save(tmp_path / "the other.png")
    return tmp_path / "the other.png"


def chat(*arguments, lines):
    text = "".join(f"{line}\n" for line in lines)
    return CliRunner().invoke(
        cli.main, ["chat", *map(str, arguments)], prog_name="pocketvlm", input=text
    )


def test_lines_from_a_pipe_are_answered_one_by_one(artifact_dir, image_file, other_file):
    lines = [
        "what is it?",
        "",
        "and?",
        f"/image {other_file}",
        "is it red?",
        "/reset",
        "what is it?",
        "/quit",
        "more?",
    ]
    result = chat(artifact_dir, "--image", image_file, "--max-new-tokens", 5, lines=lines)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    own = VLM.load(artifact_dir).chat()
    expected = [
        own.ask("what is it?", [image_file], sampling=Sampling(max_new_tokens=5)),
        own.ask("and?", sampling=Sampling(max_new_tokens=5)),
    ]
    expected.append(own.ask("is it red?", [other_file], sampling=Sampling(max_new_tokens=5)))
    own.reset()
    expected.append(own.ask("what is it?", sampling=Sampling(max_new_tokens=5)))
    assert result.stdout == "".join(f"{answer.text}\n" for answer in expected)


def test_json_is_a_line_an_answer(artifact_dir, image_file):
    options = [
        "--image",
        image_file,
        "--json",
        "--max-new-tokens",
        3,
        "--temperature",
        0.8,
        "--seed",
        1,
    ]
    result = chat(artifact_dir, *options, lines=["what?", "and?"])
    first, second = map(json.loads, result.stdout.splitlines())
    own = VLM.load(artifact_dir).chat()
    answer = own.ask(
        "what?", [image_file], sampling=Sampling(max_new_tokens=3, temperature=0.8, seed=1)
    )
    assert first["token_ids"] == answer.token_ids
    assert first["decoder"] == "onnx fp32"
    assert second["prompt_tokens"]["cached"] >= first["prompt_tokens"]["total"]
    assert second["dropped_turns"] == 0


def test_a_refused_line_does_not_end_the_conversation(artifact_dir):
    lines = ["/image missing.png", "/sing", "word " * 300, "<image>", "what?"]
    result = chat(artifact_dir, "--max-new-tokens", 2, lines=lines)
    assert result.exit_code == 1
    assert (
        result.stdout
        == VLM.load(artifact_dir).chat().ask("what?", sampling=Sampling(max_new_tokens=2)).text
        + "\n"
    )
    errors = result.stderr.splitlines()
    assert [line.startswith("error: ") for line in errors] == [True] * 4
    for line, reason in zip(
        errors,
        ["missing.png", "/sing is not a command", "context of 160", "for 0 pictures"],
        strict=True,
    ):
        assert reason in line
    refused = json.loads(chat(artifact_dir, "--json", lines=["/sing"]).stdout)
    commands = "/image FILE, /video FILE, /reset, /quit"
    assert refused == {
        "error": f"/sing is not a command: expected {commands}",
        "class": "RequestError",
        "found": "/sing is not a command",
        "expected": commands,
        "advice": "",
        "setting": "",
    }


def test_a_picture_that_is_wrong_from_the_start_is_refused_at_once(artifact_dir):
    result = chat(artifact_dir, "--image", "missing.png", lines=["what?"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "missing.png" in result.stderr


def test_a_full_context_drops_the_oldest_questions(artifact_dir):
    result = chat(
        artifact_dir, "--json", "--max-new-tokens", 8, lines=["what is in the picture?"] * 12
    )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == 12
    assert answers[-1]["dropped_turns"] > 0
    assert all(answer["prompt_tokens"]["total"] <= 160 - 7 for answer in answers)


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "pocketvlm", "chat", *map(str, arguments)]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(
            command, **streams, start_new_session=True, preexec_fn=heed_interrupts
        )
        os.close(theirs)
        self.unread = ""

    def type(self, text):
        os.write(self.ours, text.encode())

    def read_until(self, pattern, seconds=60):
        """What was written up to the end of the pattern's next occurrence."""
        until = time.monotonic() + seconds
        while not (match := re.search(pattern, self.unread)):
            ready, _, _ = select.select([self.ours], [], [], max(0, until - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.unread!r}"
            try:
                self.unread += os.read(self.ours, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                raise AssertionError(f"ended with {self.unread!r}") from None
        before, self.unread = self.unread[: match.end()], self.unread[match.end() :]
        return before


@pytest.fixture
def terminal(artifact_dir):
    terminal = Terminal(artifact_dir, "--max-new-tokens", 20)
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.ours)


def test_a_terminal_shows_what_answers_and_what_it_costs(terminal):
    assert "onnx fp32; /image FILE, /video FILE, /reset, /quit" in terminal.read_until("> ")
    terminal.type("what?\n")
    status = terminal.read_until("tokens/s")
    assert re.search(r"onnx fp32: first token after \d+ ms, then [\d.]+ tokens/s", status)
    terminal.read_until("> ")
    terminal.type("and?\n")
    assert re.search(
        r"onnx fp32: \d+ of \d+ prompt tokens cached, first token after",
        terminal.read_until("tokens/s"),
    )
    terminal.read_until("> ")
    terminal.type("/quit\n")
    assert terminal.process.wait(timeout=60) == 0


def test_ctrl_c_where_a_question_is_typed_does_not_end_the_program(terminal):
    terminal.read_until("> ")
    terminal.type("half a ques")
    terminal.read_until("half a ques")
    time.sleep(0.5)  # Python overlooks an interrupt while it deals with a key, until the next key
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.read_until("/quit or Ctrl-D ends")
    terminal.read_until("> ")
    terminal.type("what?\n")
    terminal.read_until("tokens/s")
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=60) == 0


def test_ctrl_c_stops_an_answer_and_not_the_program(monkeypatch, artifact_dir, image_file):
    """The interrupt comes with the second piece, from where a person's would."""
    import pocketvlm.cli.chat as module

    pieces, echo = [], module.click.echo

    def interrupting_echo(text="", **options):
        if options.get("nl") is False:
            pieces.append(text)
            if len(pieces) == 2:
                os.kill(os.getpid(), signal.SIGINT)
        echo(text, **options)

    monkeypatch.setattr(module.click, "echo", interrupting_echo)
    result = chat(
        artifact_dir, "--image", image_file, "--max-new-tokens", 30, lines=["what is it?", "and?"]
    )
    assert result.exit_code == 0, result.output
    own = VLM.load(artifact_dir).chat()
    full = VLM.load(artifact_dir).generate(
        "what is it?", [image_file], sampling=Sampling(max_new_tokens=30)
    )
    stream = own.stream("what is it?", [image_file], sampling=Sampling(max_new_tokens=30))
    expected = [next(stream), next(stream)]
    stream.stop()
    assert pieces[:2] == expected
    first = stream.answer
    assert len(first.token_ids) < len(full.token_ids)
    assert (
        result.stdout
        == f"{first.text}\n{own.ask('and?', sampling=Sampling(max_new_tokens=30)).text}\n"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_the_program(artifact_dir):
    import pocketvlm.cli.chat as module

    class Stream:
        stopped = 0

        def stop(self):
            self.stopped += 1

    def twice():
        with module.interrupts_stop(stream):
            os.kill(os.getpid(), signal.SIGINT)
            assert stream.stopped == 1
            os.kill(os.getpid(), signal.SIGINT)

    stream = Stream()
    with pytest.raises(KeyboardInterrupt):
        twice()
    assert stream.stopped == 1
