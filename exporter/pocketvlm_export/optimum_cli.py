"""Knows `pocketvlm export` as `optimum-cli export pocketvlm`: click's options as those of argparse,
read as click reads them. Must import without torch and without optimum."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from pocketvlm.cli import main

_COMMAND = "export"
_WORDS = "pocketvlm_words"  # options as they were typed, in a namespace
_OUTPUT = "output"  # an option of click's, and optimum's positional argument


class _Kept(argparse.Action):
    """Keeps an option with its value as it was typed, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See `argparse.Action`."""
        flag = self.option_strings[-1]
        word = f"{flag}={values}" if isinstance(values, str) else flag
        setattr(namespace, _WORDS, [*getattr(namespace, _WORDS, ()), word])


def add_options(parser: argparse.ArgumentParser, command: click.Command | None = None) -> None:
    """Add to ``parser`` what ``command`` takes, the checkpoint as ``-m`` and the folder last, as
    optimum's own exports have them.

    Values are checked by click's types, and their text is kept for `run`.

    Args:
        parser: of `optimum-cli export pocketvlm`.
        command: with an argument ``model`` and an option ``output``; None is `pocketvlm export`.

    Raises:
        click.UsageError: there is no such command.
    """
    command = command or _export()
    options = [option for option in command.params if isinstance(option, click.Option)]
    (output,) = (option for option in options if option.name == _OUTPUT)
    added = [each for option in options if option is not output for each in _arguments(option)]
    parser.description = " ".join((command.help or "").split()).replace("%", "%%")
    parser.add_argument(
        "-m", "--model", required=True, metavar="MODEL", help="Folder, Hub id or demo."
    )
    parser.add_argument(_OUTPUT, metavar="OUT", help=_help(output))
    for flags, settings in added:
        parser.add_argument(
            *flags, action=_Kept, dest=_WORDS, default=argparse.SUPPRESS, **settings
        )


def words(arguments: argparse.Namespace) -> list[str]:
    """Return what was parsed as the words of a `pocketvlm` command line."""
    typed = getattr(arguments, _WORDS, [])
    return [_COMMAND, *typed, f"--{_OUTPUT}={arguments.output}", "--", arguments.model]


def run(arguments: argparse.Namespace) -> None:
    """Export as the arguments say; raises SystemExit with the exit code of `pocketvlm export`."""
    main.main(args=words(arguments), prog_name="pocketvlm")


def _export() -> click.Command:
    """The command; raises `click.UsageError` where it is not installed."""
    command = main.get_command(click.Context(main), _COMMAND)
    if command is None:
        raise click.UsageError(f"pocketvlm has no command {_COMMAND}")
    return command


def _arguments(option: click.Option) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The flags and settings of ``add_argument`` for an option: two where it can be turned off."""
    # Long ones last, which is what is handed on.
    flags = sorted(option.opts, key=len)
    if not option.is_flag:
        metavar = option.metavar or option.type.name.upper()
        if isinstance(option.type, click.Choice):
            metavar = f"{{{','.join(map(str, option.type.choices))}}}"
        yield flags, {"type": _checked(option), "metavar": metavar, "help": _help(option)}
        return
    yield flags, {"nargs": 0, "help": _help(option)}
    if option.secondary_opts:
        off = sorted(option.secondary_opts, key=len)
        yield off, {"nargs": 0, "help": f"The opposite of {flags[-1]}."}


def _checked(option: click.Option) -> Callable[[str], str]:
    """A type of argparse's that refuses what click's type refuses, and leaves the text as it is."""

    def check(text: str) -> str:
        try:
            option.type.convert(text, option, None)
        except click.UsageError as error:
            raise argparse.ArgumentTypeError(error.message) from error
        return text

    return check


def _help(option: click.Option) -> str:
    """An option's help with its default, as argparse wants it written."""
    text = option.help or ""
    if option.show_default and not option.is_flag:
        stated = option.default
        listed = ",".join(map(str, stated)) if isinstance(stated, (list, tuple)) else stated
        text = f"{text} [default: {listed}]"
    return text.replace("%", "%%")
