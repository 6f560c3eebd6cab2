"""Serves on standard input and output: ``PYTHONPATH=tools python -m engine_pipe [--wrong
PROVIDER]``."""

from __future__ import annotations

import os
import sys

import click

from engine_pipe.engine import Engine


@click.command(help=__doc__)
@click.option("--wrong", help="A provider whose sessions give wrong outputs.")
def main(wrong: str | None) -> None:
    """Answer requests until the input ends."""
    writer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not a message
    Engine(wrong).serve(sys.stdin.buffer, writer)


if __name__ == "__main__":
    main()
