"""Knows a peer's running program: asked about a picture it answers with times; between its turns it
is suspended."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import psutil

TOOLS = Path(__file__).parents[1]


class Worker:
    """One program; a context manager that ends it."""

    def __init__(self, name: str, python: Path, program: str, settings: Mapping[str, Any]) -> None:
        """Start the program and wait until it has loaded its model.

        Raises:
            click.ClickException: it ended instead; the message has its last line.
        """
        self.name = name
        command = [str(python), "-m", f"compare_peers.programs.{program}", json.dumps(settings)]
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would fill up
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TOOLS)},
        )
        self.version: str = self._read()["ready"]
        self.process = psutil.Process(self._process.pid)
        self.process.suspend()

    def ask(self, picture: Path, asks: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Times in milliseconds of one answer: see programs/common.py; ``asks`` goes with the
        picture."""
        assert self._process.stdin is not None
        self.process.resume()
        self._process.stdin.write(json.dumps({**(asks or {}), "picture": str(picture)}) + "\n")
        self._process.stdin.flush()
        report = self._read()
        self.process.suspend()
        return report

    def __enter__(self) -> Self:
        """The worker itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the program."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def _read(self) -> dict[str, Any]:
        """The next report; the libraries of programs print lines of their own between."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                report: dict[str, Any] = json.loads(line)
                return report
        status = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().strip().splitlines()
        raise click.ClickException(
            f"{self.name} ended: {lines[-1] if lines else f'with status {status}'}"
        )
