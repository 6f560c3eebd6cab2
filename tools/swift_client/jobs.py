"""Knows what the compiled client is asked to do, and how it is run: jobs in, results out, and ONNX
Runtime at the other end of its pipe."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_pipe.engine import Engine
from swift_client.toolchain import Toolchain

Job = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Client:
    """The compiled client.

    Attributes:
        toolchain: what it was compiled with.
        program: where it is.
    """

    toolchain: Toolchain
    program: Path

    def run(self, jobs: Sequence[Job], *, wrong: str | None = None) -> list[Result]:
        """A result of each job, one after another in one process.

        Args:
            jobs: as Driver/Driver.swift reads them.
            wrong: see `engine_pipe.Engine`.

        Raises:
            RuntimeError: the client crashed.
        """
        with tempfile.TemporaryDirectory() as folder:
            asked, done = Path(folder, "jobs.json"), Path(folder, "results.jsonl")
            asked.write_text(json.dumps(list(jobs)), encoding="utf-8")
            command = self.toolchain.command(self.program, str(asked), str(done))
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                Engine(wrong).serve(process.stdout, process.stdin)
            if process.returncode or not done.exists():
                raise RuntimeError(f"the client ended with {process.returncode}")
            lines = done.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
