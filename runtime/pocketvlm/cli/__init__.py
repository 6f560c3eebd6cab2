"""Knows the `pocketvlm` command: it finds its subcommands and turns refusals into one line and an
exit code."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from typing import Any

import click
from packaging.requirements import Requirement

from pocketvlm.cli.release import this_release
from pocketvlm.cli.streams import standard_streams
from pocketvlm.cli.target import naming_target
from pocketvlm.cli.terminal import echo, printable, replace_unknown_characters
from pocketvlm.errors import PocketVLMError, RequestError
from pocketvlm.plugins import Plugins

# Packages, and modules of commands, whose dependencies are an extra of the distribution that they
# come with.
_EXTRAS = {
    "pocketvlm_export": "export",
    "pocketvlm_measure": "measure",
    "pocketvlm.cli.serve": "serve",
}
# Modules of commands that come with such a package and use nothing of its extra.
_WITHOUT_EXTRA = {"pocketvlm_measure.cli.questions"}
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def _problem(name: str, loaded: Any) -> str | None:
    """What is wrong with the command that a package registers under ``name``."""
    return None if isinstance(loaded, click.Command) else "it is not a command of click's"


# PocketVLM's own are registered like those of other packages.
COMMANDS = Plugins("pocketvlm.commands", "command", (), _problem)


class PluginGroup(click.Group):
    """A group whose commands are `COMMANDS`, each loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all registered commands."""
        return sorted({*super().list_commands(ctx), *COMMANDS.names()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command; where that fails, running it says why, or what to install if packages
        of its extra are missing."""
        if cmd_name not in self.commands:
            try:
                self.add_command(_load(cmd_name), cmd_name)
            except KeyError:
                return None
        return super().get_command(ctx, cmd_name)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run, with the standard streams that the process has."""
        with standard_streams():
            return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; the only place where a `PocketVLMError` or Ctrl-C becomes an exit code."""
        replace_unknown_characters()
        try:
            with naming_target(ctx):
                return super().invoke(ctx)
        except PocketVLMError as error:
            if (ctx.obj or {}).get("debug"):
                error.add_note(f"pocketvlm {this_release()}")
                raise
            echo(f"error: {printable(' '.join(str(error).split()))}", err=True)
            ctx.exit(error.exit_code)
        except click.ClickException as error:  # which click prints with the words of options in it
            lines = io.StringIO()
            error.show(lines)
            echo(lines.getvalue().rstrip("\n"), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            echo("\ninterrupted", err=True)
            ctx.exit(_INTERRUPTED)
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # a fault of ours: its traceback says where it was met
            error.add_note(f"pocketvlm {this_release()}")
            raise


def _load(name: str) -> click.Command:
    """The command of this name, with ``--debug``, that refuses to run without its extra; raises
    KeyError where there is none."""
    try:
        entry = COMMANDS.entry(name)
    except RequestError as refusal:
        return _stand_in(name, refusal, "Cannot be used.")
    extra = _EXTRAS.get(entry.module, _EXTRAS.get(entry.module.partition(".")[0]))
    try:
        command: click.Command = COMMANDS.load_entry(entry)
    except RequestError as refusal:
        if extra is None or not isinstance(refusal.__cause__, ImportError):
            return _stand_in(name, refusal, "Cannot be used.")
        missing = _missing(name, extra, str(refusal.__cause__))
        return _stand_in(name, missing, f"Needs more packages: {_install(extra)}.")
    if extra and entry.module not in _WITHOUT_EXTRA and command.callback is not None:
        command.callback = _needing(extra, entry, command.callback)
    command.params.append(_debug_option())
    return command


def _stand_in(name: str, refusal: RequestError, text: str) -> click.Command:
    """A command that cannot be loaded: however it is called, it says why."""

    @click.command(
        name,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        help=text,
    )
    def stand_in() -> None:
        raise refusal

    return stand_in


def _needing(extra: str, entry: EntryPoint, callback: Callable[..., Any]) -> Callable[..., Any]:
    """The callback of a command, which looks first whether the packages of an extra are there.

    Asked before any work, so that no measurement of an hour ends at an import. ``--help`` never
    comes this far and works without them.
    """

    @functools.wraps(callback)
    def checked(*arguments: Any, **options: Any) -> Any:
        if missing := _not_installed(entry, extra):
            raise _missing(entry.name, extra, ", ".join(missing))
        return callback(*arguments, **options)

    return checked


def _not_installed(entry: EntryPoint, extra: str) -> list[str]:
    """Packages that an extra of the entry point's distribution names and that are not installed."""
    texts = (entry.dist.requires if entry.dist else None) or []
    requirements = [Requirement(text) for text in texts]
    return [
        requirement.name
        for requirement in requirements
        if requirement.marker is not None
        and requirement.marker.evaluate({"extra": extra})
        and not requirement.marker.evaluate({"extra": ""})
        and not _is_installed(requirement.name)
    ]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _missing(command: str, extra: str, what: str) -> RequestError:
    return RequestError(
        f"`pocketvlm {command}` needs more packages ({what})", advice=_install(extra)
    )


def _install(extra: str) -> str:
    return f"pip install 'pocketvlm[{extra}]'"


def _version_option() -> click.Option:
    """``--version``; git is asked only when it is given."""

    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            echo(f"pocketvlm {this_release()}")
            ctx.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the release and the commit, and exit.",
    )


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
    params=[_debug_option(), _version_option()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: pocketvlm run my-artifact --image photo.jpg --prompt 'What is in the "
    "picture?'",
)
def main() -> None:
    """Vision-language models with pruned visual tokens: export, run, inspect, verify."""
