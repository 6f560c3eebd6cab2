"""Knows options that several commands share: lists of cases, of which every combination is taken,
and the metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from pocketvlm.cli.lists import BUDGETS_OR_ALL, NAMES
from pocketvlm.cli.options import cap_options, provider_option
from pocketvlm_measure.evaluation.metrics import METRICS

if TYPE_CHECKING:
    from pocketvlm_measure.evaluation.metrics.base import Metric

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
_QUESTIONS = [
    click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="Answer the first N questions only."
    ),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        metavar="N",
        help="Limit of an answer.",
    ),
    click.option(
        "--broken",
        type=click.Choice(["stop", "skip"]),
        default="stop",
        show_default=True,
        help="At a malformed line or an unreadable picture or clip: stop the run, or skip and "
        "report it.",
    ),
]


def case_options(command: _Command) -> _Command:
    """Add the options that list cases of an artifact, see `pocketvlm_measure.cases.sweep`, and the
    caps on pictures and the providers that all of them have."""
    return _with(command, [*_CASES, cap_options, provider_option])


def question_options(command: _Command) -> _Command:
    """Add the options on how a set of questions is asked."""
    return _with(command, _QUESTIONS)


def _with(command: _Command, options: Sequence[Callable[[Any], Any]]) -> _Command:
    decorated: Any = command
    for option in reversed(options):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def chosen_metric(name: str) -> Metric:
    """The metric of this name; one that a package registers under a name of ours is refused where
    it was asked for, and passed over where it is the default."""
    source = click.get_current_context().get_parameter_source("metric")
    if source is not ParameterSource.DEFAULT:
        METRICS.check_own(name)
    return METRICS[name]
