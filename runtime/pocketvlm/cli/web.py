"""Knows `pocketvlm web`: it writes a site that answers in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from pocketvlm.cli.lists import PATH, TEXT
from pocketvlm.cli.terminal import echo, echo_json, printable


@click.command(epilog="Example: pocketvlm web my-artifact -o site && python -m http.server -d site")
@click.argument("directories", metavar="[DIR]...", nargs=-1, type=PATH)
@click.option("-o", "--output", metavar="SITE", type=PATH, required=True, help="Folder to write.")
@click.option(
    "--sample",
    "samples",
    metavar="FILE",
    multiple=True,
    type=PATH,
    help="A picture that the page offers; repeat for several.",
)
@click.option(
    "--question",
    "questions",
    metavar="TEXT",
    multiple=True,
    type=TEXT,
    help="A question that the page offers; repeat for several.",
)
@click.option(
    "--registry",
    metavar="URL",
    help="Where the page's libraries are fetched from, once: another npm registry, or a folder "
    "with archives that `npm pack` wrote.",
)
@click.option("--overwrite", is_flag=True, help="Replace a site.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def web(
    directories: tuple[Path, ...],
    output: Path,
    samples: tuple[Path, ...],
    questions: tuple[str, ...],
    registry: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a site that answers from the artifacts in DIR, in the visitor's browser.

    Any static host serves it. Without a DIR the page asks for a model's address or folder. The
    libraries that it runs on are downloaded from npm at first use, about 50 MB, and checked.
    """
    from pocketvlm.web.sites import write_site

    site = write_site(
        output,
        directories,
        samples=samples,
        questions=questions,
        registry=registry,
        overwrite=overwrite,
        progress=lambda line: echo(f"{printable(line)} ...", err=True),
    )
    if as_json:
        echo_json({"site": str(output), **site})
        return
    echo(f"{output} is a site: serve it with `python -m http.server -d {output}`")
    for model in site["models"]:
        echo(f"  {model['name']}: {model['bytes'] / 1e6:.1f} MB are downloaded once")
