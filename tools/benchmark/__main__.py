"""Speed and memory of artifacts, one command a measurement: ``PYTHONPATH=tools python -m benchmark
COMMAND --help``."""

from __future__ import annotations

import click

from benchmark.conversation import conversation
from benchmark.export_memory import export_memory
from benchmark.picking import picking
from benchmark.pictures import pictures
from benchmark.providers import providers
from benchmark.run_memory import run_memory
from benchmark.selection import selection
from benchmark.startup import startup
from benchmark.vision import vision

main = click.Group(
    help=__doc__,
    commands=[
        vision,
        selection,
        picking,
        pictures,
        providers,
        startup,
        conversation,
        export_memory,
        run_memory,
    ],
)

if __name__ == "__main__":
    main()
