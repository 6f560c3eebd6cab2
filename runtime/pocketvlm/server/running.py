"""Knows how a server runs: its socket, its model's process, and how both end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from pocketvlm import upstream
from pocketvlm.errors import RequestError
from pocketvlm.server.app import make_app
from pocketvlm.server.process import ModelProcess
from pocketvlm.server.service import ServerOptions
from pocketvlm.server.worker import Setup

GRACE = 10  # seconds that answers have to end once the server is asked to
_LATER = 5  # seconds after which connections are cut off
_SILENT = 20  # seconds that a connection may be open without a request
_UNREAD = 60  # seconds that a client may leave much of its answer unread
_FURTHER = 64  # connections beside those that are answered or wait: pages, questions of state


def serve(options: ServerOptions, setup: Setup, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C. Answers that are under way then have some seconds to end.

    Args:
        options: how the server is set up.
        setup: what its model's process is started with.
        port: to listen at; 0 takes a free one.
        ready: called with the address once the model is loaded.

    Raises:
        PocketVLMError: the port cannot be had, or the model cannot be loaded.
    """
    # uvicorn has it while it serves, and hands it on when it has ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = bind(options.host, port)
    engine = ModelProcess(setup)
    try:
        engine.start()
        config = uvicorn.Config(
            make_app(options, engine),
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            http=upstream.impatient_protocol(_SILENT, _UNREAD),
            ws="none",
            limit_concurrency=options.parallel + options.waiting + _FURTHER,
            timeout_graceful_shutdown=GRACE + _LATER,
        )
        host, bound = listener.getsockname()[:2]
        ready(f"http://{_in_address(host)}:{bound}/")
        _Server(config, engine).run(sockets=[listener])
    finally:
        engine.close()
        listener.close()


class _Server(uvicorn.Server):
    """Gives answers that are under way some seconds, then ends them with an error that says so."""

    def __init__(self, config: uvicorn.Config, engine: ModelProcess) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        asyncio.get_running_loop().call_later(GRACE, self._engine.end_answers)
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine; raises `RequestError` where it cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise _no_address(host, port, error) from error
    try:
        if os.name == "posix":  # on Windows it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _no_address(host, port, error) from error
    return listener


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens at ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _no_address(host: str, port: int, error: OSError) -> RequestError:
    return RequestError(
        f"the server cannot listen at {host}:{port} ({error.strerror})",
        advice="give another --port or --host",
        setting="port",
    )
