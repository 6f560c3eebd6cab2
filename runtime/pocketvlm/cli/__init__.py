"""Knows the `pocketvlm` command: it finds its subcommands and turns refusals into one line and an
exit code."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from pocketvlm import __version__
from pocketvlm.cli.target import naming_target
from pocketvlm.cli.terminal import printable, replace_unknown_characters
from pocketvlm.errors import PocketVLMError, RequestError

_EXPORTER = "pocketvlm_export"  # whose dependencies are an extra
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class PluginGroup(click.Group):
    """A group whose commands register through the entry-point group ``pocketvlm.commands``, each
    loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all registered commands."""
        return sorted({*super().list_commands(ctx), *_entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command; where the exporter's dependencies are missing, a stand-in that says
        what to install."""
        if cmd_name not in self.commands and cmd_name in _entry_points():
            self.add_command(_load(_entry_points()[cmd_name]), cmd_name)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; the only place where a `PocketVLMError` or Ctrl-C becomes an exit code."""
        replace_unknown_characters()
        try:
            with naming_target(ctx):
                return super().invoke(ctx)
        except PocketVLMError as error:
            if (ctx.obj or {}).get("debug"):
                raise
            click.echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(_INTERRUPTED)


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="pocketvlm.commands")}


def _load(entry: EntryPoint) -> click.Command:
    try:
        command: click.Command = entry.load()
    except ImportError as error:
        if entry.module.partition(".")[0] != _EXPORTER:
            raise
        return _unavailable(entry.name, error)
    command.params.append(_debug_option())
    return command


def _unavailable(name: str, error: Exception) -> click.Command:
    """A command that tells what is missing, however it is called."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        help="Needs more packages: pip install 'pocketvlm[export]'.",
    )
    def stand_in() -> None:
        raise RequestError(
            f"`pocketvlm {name}` needs more packages ({error})",
            advice="pip install 'pocketvlm[export]'",
        )

    return stand_in


def _debug_option() -> click.Option:
    """``--debug``, also after the subcommand's name."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().obj = {"debug": True}

    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Show the traceback of an error.",
    )


@click.group(
    cls=PluginGroup,
    params=[_debug_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: pocketvlm run my-artifact --image photo.jpg --prompt 'What is in the "
    "picture?'",
)
@click.version_option(__version__, prog_name="pocketvlm")
def main() -> None:
    """Vision-language models with pruned visual tokens: export, run, inspect, verify."""
