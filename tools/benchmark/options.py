"""Knows the options that measurements share, and hands them to a command as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from measured_page.pages import publish
from pocketvlm.cli.lists import NUMBERS

__all__ = ["EXISTING", "NUMBERS", "Section", "Timing", "into_section", "timed"]

EXISTING = click.Path(path_type=Path, exists=True)


@dataclass(frozen=True)
class Section:
    """Where a result goes beside the terminal: section ``name`` of a page, where one is given."""

    page: Path | None
    name: str

    def publish(self, text: str) -> None:
        """Print ``text`` and write it into the section."""
        click.echo(text)
        if self.page is not None:
            publish(self.page, self.name, text)


@dataclass(frozen=True)
class Timing:
    """How durations are measured: turns that count, threads of each engine, whether on a busy
    machine too."""

    repeat: int
    threads: int
    allow_busy: bool


def into_section(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add ``--page`` and ``--section``; the command takes them as ``section``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--page", type=EXISTING, help="Write the result into this file.")
        @click.option("--section", default=name, show_default=True, help="Its section.")
        @functools.wraps(command)
        def run(page: Path | None, section: str, **others: Any) -> None:
            command(section=Section(page, section), **others)

        return run

    return decorate


def timed(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a comparison of durations; the command takes them as ``timing``."""

    @click.option("--repeat", default=7, show_default=True, help="Turns that count.")
    @click.option("--threads", default=2, show_default=True, help="Threads of each engine.")
    @click.option("--allow-busy", is_flag=True, help="Measure although something else runs.")
    @functools.wraps(command)
    def run(repeat: int, threads: int, allow_busy: bool, **others: Any) -> None:
        command(timing=Timing(repeat, threads, allow_busy), **others)

    return run
