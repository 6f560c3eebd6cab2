"""Knows `pocketvlm serve`: an artifact behind HTTP, for clients that speak OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from pocketvlm.cli.lists import PATH
from pocketvlm.cli.options import model_options, sampling_base_option
from pocketvlm.cli.terminal import begin_log, echo
from pocketvlm.files import user_path

KEY_VARIABLE = "POCKETVLM_API_KEY"
_USING = "using.json"


@click.command(epilog="Example: pocketvlm serve my-artifact --port 8080")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen; 0.0.0.0 is every network of this machine.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    metavar="N",
    help="0 takes a free one.",
)
@click.option(
    "--api-key",
    envvar=KEY_VARIABLE,
    metavar="KEY",
    help=f"Refuse requests without it; the variable {KEY_VARIABLE} if not given.",
)
@click.option(
    "--cors",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Allow web pages of this origin, such as https://example.com; * is all. Repeatable.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A further host name of this server; * is all. Repeatable.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="The model's name for clients; the folder's if not given.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Answers at the same time; they take turns token by token.",
)
@click.option(
    "--queue",
    "waiting",
    type=click.IntRange(0, 10_000),
    default=16,
    show_default=True,
    metavar="N",
    help="Requests that may wait; further ones get status 429.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    metavar="MB",
    help="Size of a request, pictures included.",
)
@click.option(
    "--models",
    type=click.IntRange(1, 16),
    default=2,
    show_default=True,
    metavar="N",
    help="Models in memory, for requests with other graphs or precisions.",
)
@sampling_base_option
@model_options
def serve(
    directory: Path,
    host: str,
    port: int,
    api_key: str | None,
    origins: tuple[str, ...],
    hosts: tuple[str, ...],
    name: str | None,
    parallel: int,
    waiting: int,
    max_body: int,
    models: int,
    base: Literal["greedy", "checkpoint"],
    load_arguments: Callable[[Path], Mapping[str, Any]],
) -> None:
    """Serve the artifact in DIR to clients that speak OpenAI's protocol, until Ctrl-C.

    POST /v1/chat/completions answers, whole or streamed; GET / is a page to try it. Pictures come
    as data: URIs, nothing is fetched. The model runs in its own process, which is restarted when it
    dies.
    """
    from pocketvlm.server import running
    from pocketvlm.server.service import ServerOptions
    from pocketvlm.server.worker import Setup

    begin_log()
    folder = user_path(directory).resolve()
    options = ServerOptions(
        name=name or folder.name,
        host=host,
        api_key=api_key or None,
        origins=tuple(origin.rstrip("/") for origin in origins),  # as browsers write them
        hosts=hosts,
        parallel=parallel,
        waiting=waiting,
        max_body=max_body * 1_000_000,
        base=base,
        using=_facts(folder),
    )
    if options.api_key is None and not running.is_local(host):
        echo("warning: anybody on the network can ask: --api-key asks for a key", err=True)

    def ready(address: str) -> None:
        echo(f"serving {options.name} at {address} (Ctrl-C ends)", err=True)

    setup = Setup(str(folder), load_arguments(directory), models, begin_log)
    running.serve(options, setup, port, ready)


def _facts(folder: Path) -> str | None:
    """The file of facts for clients, None where the artifact has none; raises `ArtifactError` where
    it is a link to a file elsewhere, which would be sent to whoever asks."""
    from pocketvlm.artifact.integrity import resolve

    return str(resolve(folder, _USING)) if (folder / _USING).is_file() else None
