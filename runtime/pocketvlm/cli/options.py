"""Knows the options that every command which answers has in common: what is loaded, and how tokens are picked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pocketvlm.adaptive import AUTO, AutoBudget, read_budget
from pocketvlm.cli.lists import NAMES, Comma
from pocketvlm.cli.target import answering_wishes, takes_target

if TYPE_CHECKING:
    from pocketvlm import VLM

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _BudgetType(click.ParamType):
    """A whole number, or ``auto``."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read it."""
        if value == AUTO:
            return AUTO
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor {AUTO}", param, ctx)


_IMAGE = click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A picture; repeat for several. <image> in the prompt places one, else they come first.",
)
_VIDEO = click.option(
    "--video",
    "videos",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A clip, for models that are shown clips; <video> in the prompt places one.",
)
_MODEL = [
    click.option("--decoder", metavar="NAME", help="Decoder engine: onnx where the artifact has it, or llama.cpp."),
    click.option(
        "--budget",
        type=_BudgetType(),
        metavar="K|auto",
        help="Visual tokens a picture, by default the artifact's; auto lets its scores decide, up to those.",
    ),
    click.option(
        "--score-share",
        type=float,
        metavar="S",
        help=f"With --budget auto: part of the scores to keep, {AutoBudget.score_share} if not given.",
    ),
    click.option("--min-tokens", type=int, metavar="N", help="With --budget auto: least visual tokens a picture."),
    click.option("--vision-precision", metavar="P", help="Precision of the vision graph, as listed by `inspect`."),
    click.option(
        "--decoder-precision",
        metavar="P",
        help="Precision of the decoder, as listed by `inspect`; A+B reads in A and answers in B.",
    ),
    click.option("--threads", type=int, metavar="N", help="Threads for each engine; its own default if not given."),
    click.option("--context", type=int, metavar="N", help="Longest sequence in tokens, at most the artifact's own."),
    click.option(
        "--feature-cache",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        help="Keep the features of pictures here, so that none is encoded twice.",
    ),
]
_SAMPLING = [
    click.option("--max-new-tokens", type=int, default=64, show_default=True, metavar="N", help="Limit of the answer."),
    click.option("--temperature", type=float, default=0.0, show_default=True, metavar="T", help="0 is greedy."),
    click.option("--top-p", type=float, default=1.0, show_default=True, metavar="P", help="Nucleus sampling."),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
]


_CASES = [
    click.option(
        "--budget",
        type=Comma.numbers_or_all(),
        default=("all",),
        metavar="all|K[,K...]",
        help="Visual tokens a picture; all that were exported if not given.",
    ),
    click.option("--decoder", type=NAMES, default=(), metavar="all|NAME[,...]", help="Decoder engines."),
    click.option(
        "--decoder-precision", type=NAMES, default=(), metavar="all|P[,P...]", help="Precisions of the decoder."
    ),
    click.option(
        "--vision-precision", type=NAMES, default=(), metavar="all|P[,P...]", help="Precisions of the vision."
    ),
]


def case_options(command: _Command) -> _Command:
    """Add what lists cases of an artifact, of which every combination is taken, see `profiler.cases.sweep`."""
    decorated: Any = command
    for option in reversed(_CASES):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def answering_options(command: _Command) -> _Command:
    """Add ``images``, ``videos``, ``sampling`` (arguments of an answer) and ``load`` (gives the VLM of a folder)."""

    @functools.wraps(command)
    def with_groups(*arguments: Any, **given: Any) -> Any:
        sampling = {name: given.pop(name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
        names = ("decoder", "budget", "vision_precision", "decoder_precision", "threads", "context", "feature_cache")
        model = {name: given.pop(name) for name in names}
        model["budget"] = _budget(model["budget"], given.pop("score_share"), given.pop("min_tokens"))
        return command(*arguments, **given, sampling=sampling, load=functools.partial(_load, model))

    decorated: Any = takes_target(answering_wishes)(with_groups)
    for option in reversed([_IMAGE, _VIDEO, *_MODEL, *_SAMPLING]):
        decorated = option(decorated)
    result: _Command = decorated
    return result


def _budget(budget: int | str | None, score_share: float | None, min_tokens: int | None) -> int | AutoBudget | None:
    """What was asked for; the options of ``auto`` are wrong usage without it."""
    stated: dict[str, Any] = {"score_share": score_share, "min_tokens": min_tokens}
    given = {name: value for name, value in stated.items() if value is not None}
    if given and budget != AUTO:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} is for --budget {AUTO}")
    return AutoBudget(**given) if budget == AUTO else read_budget(budget)


def _load(model: dict[str, Any], directory: Path, **more: Any) -> VLM:
    from pocketvlm.vlm import VLM

    return VLM.load(directory, **model, **more)
