"""Knows `pocketvlm targets`: the deployment targets there are, and the settings of one with their
reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.terminal import echo, echo_json, printable

if TYPE_CHECKING:
    from pocketvlm_targets import Target


@click.command(epilog="Example: pocketvlm targets raspberry-pi-5")
@click.argument("target", metavar="[NAME|FILE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def targets(target: str | None, as_json: bool) -> None:
    """List the deployment targets, or print the settings of one and the reasons for them.

    A target is a TOML file with options for a device; --target takes options that are not given
    from it. To make your own, save the output for the nearest as a .toml file, and change it.
    """
    from pocketvlm.cli.target import load_target
    from pocketvlm_targets import target_names

    if target is None:
        listed = {name: load_target(name).description for name in target_names()}
        if as_json:
            echo_json({"targets": listed})
            return
        for name, description in listed.items():
            echo(printable(f"{name:<16} {description}"))
        return
    loaded = load_target(target)
    if as_json:
        echo_json(facts(loaded))
        return
    for line in describe(loaded):
        echo(printable(line))


def facts(target: Target) -> dict[str, Any]:
    """``name``, ``description``, and ``settings``: {key: {``value``, ``reason``}}."""
    settings = {
        key: {
            "value": list(value) if isinstance(value, tuple) else value,
            "reason": target.reasons.get(key),
        }
        for key, value in target.settings().items()
        if key != "description"
    }
    return {"name": target.name, "description": target.description, "settings": settings}


def describe(target: Target) -> Iterator[str]:
    """The target as TOML, each value below its reason."""
    from pocketvlm_targets.writing import lines_of

    yield from lines_of(target)
