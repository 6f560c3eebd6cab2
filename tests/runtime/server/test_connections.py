"""How long a connection may stay open without asking for anything, over a real socket."""

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn

from pocketvlm import upstream

ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def serving(app, **seconds):
    """The address of a server whose clients may do nothing for so many seconds."""
    protocol = upstream.impatient_protocol(**{"silent": 30, "unread": 30, **seconds})
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(30)


async def slow(_scope, receive, send):
    """Answers after longer than a connection may be silent, without reading a body."""
    await asyncio.sleep(0.6)
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"too large"})


@pytest.fixture(scope="module")
def address():
    with serving(slow, silent=0.3) as address:
        yield address


def received(connection):
    """All until the server ends the connection."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("beginning", [b"", b"G", ASKED])
def test_a_connection_that_does_not_get_to_ask_is_ended(address, beginning):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(beginning)
        assert received(connection) == b""


def test_an_answer_takes_as_long_as_it_takes(address):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(ASKED + b"\r\n" + ASKED + b"\r\n")  # the second waits for the first
        answers = received(connection)
    assert answers.count(b"HTTP/1.1 413") == 2
    assert answers.endswith(b"too large\r\n0\r\n\r\n")


def test_the_rest_of_a_body_that_was_refused_does_not_hold_it_open(address):
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(ASKED + b"Content-Length: 1000000\r\n\r\n")
        ended = threading.Event()

        def go_on():
            while not ended.wait(0.02):
                try:
                    connection.sendall(b"x")
                except OSError:
                    return

        sender = threading.Thread(target=go_on)
        sender.start()
        try:
            assert b"HTTP/1.1 413" in received(connection)
        finally:
            ended.set()
            sender.join()


def test_a_client_that_does_not_read_does_not_hold_an_answer():
    done = threading.Event()

    async def much(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(40):
            body = b"x" * 1_000_000
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})
        done.set()

    with serving(much, silent=0.3, unread=0.3) as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(address)
        connection.sendall(ASKED + b"\r\n")
        assert done.wait(30)
        ended = len(received(connection))
    assert ended < 40_000_000
