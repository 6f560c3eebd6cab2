"""Knows how `optimum-cli` finds `optimum-cli export pocketvlm`.

optimum imports every file of this folder whatever is asked of it, so that an exception here would
break all of its commands. ``optimum``, ``optimum.commands`` and this folder are namespaces that
several distributions share: none of them may have an ``__init__.py``.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

REGISTER_COMMANDS: list[Any] = []

try:
    from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
    from optimum.commands.export.base import ExportCommand
except Exception:  # noqa: BLE001, S110 - another release of optimum: its own commands continue
    pass
else:

    class PocketVLMExportCommand(BaseOptimumCLICommand):
        """``optimum-cli export pocketvlm -m MODEL OUT``: the command `pocketvlm export`."""

        COMMAND = CommandInfo(
            name="pocketvlm",
            help="Export a vision-language model whose visual tokens are pruned inside the ONNX "
            "graphs.",
        )

        @staticmethod
        def parse_args(parser: argparse.ArgumentParser) -> None:
            """Add the options of `pocketvlm export`; without them the command says why."""
            try:
                from pocketvlm_export.optimum_cli import add_options

                add_options(parser)
            except Exception as error:  # noqa: BLE001 - see above
                _stand_in(parser, " ".join(str(error).split()) or type(error).__name__)

        def run(self) -> None:
            """Export, and exit as `pocketvlm export` does."""
            from pocketvlm_export.optimum_cli import run

            run(self.args)

    REGISTER_COMMANDS.append((PocketVLMExportCommand, ExportCommand))


def _stand_in(parser: argparse.ArgumentParser, problem: str) -> None:
    """However the command is called, it says why it cannot be used."""

    def refuse(message: str) -> NoReturn:
        parser.exit(1, f"error: pocketvlm cannot be used ({problem}): install it again\n")

    parser.error = refuse  # type: ignore[method-assign]
    # Nobody gives it, so that parsing always ends in an error.
    parser.add_argument("--usable", required=True, help=argparse.SUPPRESS)
