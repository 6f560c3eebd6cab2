"""Knows how `pocketvlm serve` is started for a while, and asked whether it is ready."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

_SECONDS = 180.0  # that starting may take


class Served:
    """A server in a process of its own, from ``with`` to its end.

    Args:
        artifact: what answers.
        log: where its standard error goes.
        key: that clients must show; None for none.
        options: further ones of the command.

    Attributes:
        root: its address, without a slash behind it.
        url: of its API.
    """

    def __init__(
        self, artifact: Path, log: Path, *, key: str | None = None, options: Sequence[str] = ()
    ) -> None:
        port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"
        self._key = key
        self._log_path = log
        keyed = ["--api-key", key] if key else []
        self._command = [
            *(sys.executable, "-m", "pocketvlm", "serve", str(artifact)),
            *("--port", str(port), *keyed, *options),
        ]
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=self._log, start_new_session=True
        )
        deadline = time.monotonic() + _SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"no server: {self._log_path.read_text(errors='replace')}")
            time.sleep(0.2)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The process that listens; it has started the one that has the model."""
        if self._process is None:
            raise RuntimeError("nothing is served")
        return self._process.pid

    def models(self) -> list[str]:
        """Names of what is served."""
        return [each["id"] for each in json.loads(self.get("/v1/models"))["data"]]

    def get(self, path: str) -> bytes:
        """What lies at a path."""
        request = urllib.request.Request(self.root + path)
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        with urllib.request.urlopen(request, timeout=30) as response:
            data: bytes = response.read()
        return data

    def _is_ready(self) -> bool:
        try:
            health: Any = self.get("/health")
        except (OSError, urllib.error.URLError):
            return False
        return bool(health)

    def _stop(self) -> None:
        """By an interrupt, as people end it; where that is not heeded, with all it started."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._log is not None:
            self._log.close()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
