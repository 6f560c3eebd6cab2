"""Knows the command reference: every command's help as Markdown, placed in a file between two
markers.

Run as ``python -m pocketvlm.cli.reference docs/commands.md [--check]``.
"""

from __future__ import annotations

from pathlib import Path

import click

from pocketvlm.cli import main
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.files import replace_file

BEGIN, END = "<!-- commands -->", "<!-- /commands -->"
_WIDTH = 100


def render() -> str:
    """Help of `pocketvlm` and of each subcommand, as Markdown."""
    root = click.Context(
        main, info_name="pocketvlm", terminal_width=_WIDTH, **main.context_settings
    )
    sections = [_section("pocketvlm", main.get_help(root))]
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        if command is not None:
            context = click.Context(command, root, name, terminal_width=_WIDTH)
            sections.append(_section(f"pocketvlm {name}", command.get_help(context)))
    return "\n\n".join(sections)


def place(text: str) -> str:
    """``text`` with what lies between the markers replaced by `render`; raises `PocketVLMError`
    without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RequestError(
            "no place for the command reference", expected=f"a line {BEGIN} and a line {END}"
        )
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


def _section(title: str, help_text: str) -> str:
    return f"## `{title}`\n\n```text\n{help_text.strip()}\n```"


@click.command(epilog="Example: python -m pocketvlm.cli.reference docs/commands.md --check")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Change nothing; exit 1 where the reference is stale.")
def write_reference(file: Path, check: bool) -> None:
    """Write the command reference into FILE between its markers."""
    text = file.read_text(encoding="utf-8")
    try:
        placed = place(text)
    except PocketVLMError as error:
        raise click.ClickException(str(error)) from error
    if placed == text:
        return
    if check:
        raise click.ClickException(
            f"the command reference in {file} is stale: run this command without --check"
        )
    replace_file(file, placed.encode())


if __name__ == "__main__":
    write_reference()
