"""`pocketvlm serve` as people start it: a real process and a real socket."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from pocketvlm import cli
from pocketvlm.server import running
from support.processes import heed_interrupts
from support.serving import PATH, asked, data_uri, image_part, text_part
from support.tiny_artifact import write_artifact

OPTIONS = ("--port", "0", "--threads", "1")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root, budgets=(6, 12))
    return root


START = """
import sys
from pocketvlm.cli import main
from pocketvlm.server import running
running.GRACE = float(sys.argv.pop(1))
main(prog_name="pocketvlm")
"""


class Server:
    """A server in a process of its own, which gives answers so many seconds to end."""

    def __init__(self, artifact, *options, grace=10.0):
        command = [sys.executable, "-c", START, str(grace), "serve", str(artifact)]
        self.process = subprocess.Popen(
            [*command, *OPTIONS, *options],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        self.written = self.process.stderr.readline()
        assert "serving" in self.written, self.written + self.process.stderr.read()
        self.address = re.search(r"http://\S+/", self.written)[0]

    def end(self, number):
        """What it writes further, and its exit code."""
        self.process.send_signal(number)
        return self.process.stderr.read(), self.process.wait(30)


@pytest.fixture(scope="module")
def server(artifact):
    server = Server(artifact)
    yield server
    server.end(signal.SIGTERM)


def test_it_says_where_it_is_and_answers(server):
    assert re.fullmatch(
        r"serving tiny at http://127\.0\.0\.1:\d+/ \(Ctrl-C ends\)\n", server.written
    )
    content = [image_part(data_uri()), text_part("what?")]
    with httpx2.Client(base_url=server.address) as client:
        whole = client.post(PATH, json=asked(content, max_tokens=5)).json()
        with client.stream("POST", PATH, json=asked(content, max_tokens=5, stream=True)) as stream:
            lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
        assert client.get("/health").json()["status"] == "ok"
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]


def test_a_client_that_hangs_up_in_the_middle_leaves_no_answer_running(server):
    with httpx2.Client(base_url=server.address) as client:
        body = asked("what?", max_tokens=150, stream=True)
        with client.stream("POST", PATH, json=body) as stream:
            next(stream.iter_lines())
        end = time.monotonic() + 20
        while client.get("/health").json()["running"]:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_asked_to_and_takes_its_model_along(artifact, number, monkeypatch):
    monkeypatch.setenv("POCKETVLM_API_KEY", "secret")
    server = Server(artifact)
    with httpx2.Client(base_url=server.address) as client:
        headers = {"Authorization": "Bearer secret"}
        statuses = [client.get("/v1/models", headers=each).status_code for each in ({}, headers)]
    assert statuses == [401, 200]
    children = children_of(server.process.pid)
    assert children or not Path("/proc/self/task").exists()
    rest, code = server.end(number)
    assert code == (130 if number == signal.SIGINT else 0)
    assert rest.strip() == ("interrupted" if number == signal.SIGINT else "")
    end = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_answers_under_way_end_with_it_and_none_waits_for_ever(artifact):
    server = Server(artifact, "--parallel", "1", grace=0.3)
    bodies = []

    def ask():
        question = asked("what?", max_tokens=150, stream=True)
        bodies.append(httpx2.post(server.address + PATH[1:], json=question, timeout=30).text)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    with httpx2.Client(base_url=server.address) as client:
        end = time.monotonic() + 20
        while client.get("/health").json()["waiting"] < 8:
            assert time.monotonic() < end
    _, code = server.end(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    assert code == 0
    assert len(bodies) == 12
    broken = [body for body in bodies if "model_unavailable" in body]
    assert all(body.endswith("data: [DONE]\n\n") for body in bodies if body not in broken)
    assert broken


def children_of(pid):
    """Those of all its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split()]


def pocketvlm(*arguments):
    return CliRunner().invoke(cli.main, [str(each) for each in arguments], prog_name="pocketvlm")


def test_what_is_refused_at_the_start_is_one_line(artifact, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = pocketvlm("serve", artifact, "--port", port)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"cannot listen at 127.0.0.1:{port}" in result.stderr
    result = pocketvlm("serve", tmp_path, "--port", 0)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "pocketvlm.json" in result.stderr


def test_no_link_has_a_file_of_elsewhere_sent(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(running, "serve", lambda options, *_: served.append(options.using))
    write_artifact(tmp_path / "tiny")
    facts = tmp_path / "tiny" / "using.json"
    facts.write_text("{}")
    assert CliRunner().invoke(cli.main, ["serve", str(tmp_path / "tiny")]).exit_code == 0
    facts.unlink()
    (tmp_path / "secret").write_text("mine")
    facts.symlink_to(tmp_path / "secret")
    result = CliRunner().invoke(cli.main, ["serve", str(tmp_path / "tiny")])
    assert result.exit_code == 1
    assert "leaves the folder" in result.output
    assert served == [str(facts)]


def test_an_origin_is_one_with_and_without_its_slash(artifact, monkeypatch):
    served = []
    monkeypatch.setattr(running, "serve", lambda options, *_: served.append(options))
    result = pocketvlm("serve", artifact, "--cors", "https://a.example/", "--cors", "*")
    assert result.exit_code == 0, result.output
    assert served[0].origins == ("https://a.example", "*")


def test_without_the_extra_it_says_what_to_install(artifact, monkeypatch):
    def version(name):
        if name == "starlette":
            raise cli.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(cli, "version", version)
    result = pocketvlm("serve", artifact)
    assert result.exit_code == 1
    assert "pip install 'pocketvlm[serve]'" in result.stderr
    assert pocketvlm("serve", "--help").exit_code == 0
