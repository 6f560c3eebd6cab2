"""Knows the options that list cases of an artifact, of which every combination is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pocketvlm.cli.lists import BUDGETS_OR_ALL, NAMES
from pocketvlm.cli.options import cap_options, provider_option

_Command = TypeVar("_Command", bound=Callable[..., Any])

_CASES = [
    click.option(
        "--budget",
        type=BUDGETS_OR_ALL,
        default=("all",),
        metavar="all|K[,K...]",
        help="Visual tokens per picture; all that were exported if not given.",
    ),
    click.option(
        "--decoder",
        type=NAMES,
        default=(),
        metavar="all|NAME[,...]",
        help="Decoder engines; the artifact's default if not given.",
    ),
    click.option(
        "--decoder-precision",
        type=NAMES,
        default=(),
        metavar="all|P[,P...]",
        help="Precisions of the decoder; each engine's default if not given.",
    ),
    click.option(
        "--vision-precision",
        type=NAMES,
        default=(),
        metavar="all|P[,P...]",
        help="Precisions of the vision graph; the artifact's default if not given.",
    ),
]


def case_options(command: _Command) -> _Command:
    """Add the options that list cases of an artifact, see `pocketvlm_measure.cases.sweep`, and the
    caps on pictures and the providers that all of them have."""
    decorated: Any = command
    for option in reversed([*_CASES, cap_options, provider_option]):
        decorated = option(decorated)
    result: _Command = decorated
    return result
