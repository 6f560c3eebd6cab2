"""Knows the options of `pocketvlm tune` that say what a checkpoint is exported for, what is asked
where there are no answers, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from pocketvlm.artifact.stages import Stage
from pocketvlm.cli.lists import NAMES, PATH, SIZES
from pocketvlm_targets import DECODERS

if TYPE_CHECKING:
    from pocketvlm_measure.tune.agreement import Pairs

_Command = TypeVar("_Command", bound=Callable[..., Any])
_WITHOUT = "none"  # a plan of the tower without stages


class _Plan(click.ParamType):
    """The stages of one plan, as texts: ``2:72``, ``1:96 3:48``, or ``none``."""

    name = "stages"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read them."""
        if isinstance(value, tuple):
            return value
        parts = tuple(str(value).split())
        if parts == (_WITHOUT,):
            return ()
        try:
            return tuple(str(Stage.parse(part)) for part in parts or ("",))
        except ValueError:
            self.fail(f"{value!r} is not LAYER:KEEP[:BY], several, or {_WITHOUT}", param, ctx)


_EXPORTING = [
    click.option(
        "--method",
        type=NAMES,
        default=(),
        metavar="NAME[,NAME...]",
        help="For a checkpoint: pruning methods to try; a few that suit its tower if not given.",
    ),
    click.option(
        "--tower-stage",
        type=_Plan(),
        multiple=True,
        metavar="LAYER:KEEP[:BY]|none",
        help="For a checkpoint: tower stages to try with each method, several of one plan in "
        "quotes; repeatable. If not given: none, and one in the middle with the first method.",
    ),
    click.option(
        "--image-sizes",
        type=SIZES,
        default=(),
        metavar="N|HxW[,...]",
        help="For a checkpoint whose tower has learnt positions: smaller sizes of all pictures or "
        "tiles to try, in pixels; none if not given.",
    ),
    click.option(
        "--portable",
        is_flag=True,
        help="For a checkpoint: standard ONNX operators alone, for engines that lack ONNX "
        "Runtime's.",
    ),
    click.option(
        "--exports",
        type=PATH,
        metavar="DIR",
        help="For a checkpoint: the folder that keeps the exports; named after it if not given. A "
        "further run exports nothing again.",
    ),
]
_ASKING = [
    click.option(
        "--pictures",
        type=PATH,
        metavar="FOLDER",
        help="Without answers: a folder; every question of --questions is combined with every "
        "picture here, and agreement with the unpruned model is measured.",
    ),
    click.option(
        "--questions",
        type=PATH,
        metavar="FILE.txt",
        help="Without answers: a text file, one question per line.",
    ),
    click.option(
        "--agreement",
        type=click.Choice(["exact", "overlap"]),
        default="exact",
        show_default=True,
        help="Without answers: the same answer counts, or the words in common.",
    ),
    click.option(
        "--pairs",
        type=click.IntRange(1),
        metavar="N",
        help="Without answers: the most pairs of picture and question, 1000 if not given; of more "
        "an even sample is used.",
    ),
]
_WRITING = [
    click.option(
        "--report",
        type=PATH,
        metavar="OUT.html",
        help="Write one web page with the frontier and why each other setting was ruled out.",
    ),
    click.option(
        "--write-target",
        type=PATH,
        metavar="FILE.toml",
        help="Write the choice as a target, with the measured reason above every line.",
    ),
    click.option(
        "--export",
        type=PATH,
        metavar="OUT",
        help="Write a folder that answers with the choice by default, and holds nothing else.",
    ),
]


def _add(options: Sequence[Any]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        result: _Command = decorated
        return result

    return add


exporting_options, asking_options, writing_options = map(_add, (_EXPORTING, _ASKING, _WRITING))


def wishes_of(
    *,
    method: tuple[str, ...],
    tower_stage: tuple[tuple[str, ...], ...],
    budget: Sequence[int],
    decoder: tuple[str, ...],
    decoder_precision: tuple[str, ...],
    vision_precision: tuple[str, ...],
    max_pixels: int | None,
    max_tiles: int | None,
    image_sizes: tuple[tuple[int, int], ...],
    portable: bool,
) -> dict[str, Any]:
    """Return the options of the command line as what an exporter is asked for, see `Offer.of`."""
    asked = {"onnx"} if not decoder else set(decoder)
    if asked == {"all"}:
        asked = set(DECODERS["both"])
    options: dict[str, Any] = {}
    for name, engines in DECODERS.items():
        if asked == set(engines):
            options["decoder"] = name
    if not options:
        raise click.UsageError(f"--decoder {','.join(decoder)}: choose from {', '.join(DECODERS)}")
    if portable:
        options["portable"] = True
    # "all" is what an exporter tries by itself: a checkpoint holds no precisions to choose from.
    parts = tuple(part for name in decoder_precision if name != "all" for part in name.split("+"))
    return {
        "methods": method,
        "tower_stages": tower_stage,
        "budgets": tuple(budget),
        "vision_precisions": tuple(name for name in vision_precision if name != "all"),
        "decoder_precisions": tuple(dict.fromkeys(parts)),
        "max_pixels": max_pixels,
        "max_tiles": max_tiles,
        "image_sizes": image_sizes,
        "options": options,
    }


def check_folder_options(*names: str) -> None:
    """Refuse options of a checkpoint with the folder of an artifact; raises `click.UsageError`.

    A target's values pass: what an artifact is exported for is settled.
    """
    refuse_together(
        *names, reason="is for a checkpoint, and this is a folder that holds an artifact"
    )


def refuse_together(*names: str, reason: str) -> None:
    """Refuse options that were typed, each with the reason; raises `click.UsageError`."""
    ctx = click.get_current_context()
    for name in names:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} {reason}")


def asked_without_answers(
    data: Path | None, pictures: Path | None, questions: Path | None, pairs: int | None
) -> Pairs | None:
    """Return what is asked where there are no answers; None where ``data`` has them.

    Raises:
        click.UsageError: both are given, or neither, or one half.
        RequestError: see `read_pairs`.
    """
    if data is not None:
        if pictures is not None or questions is not None:
            raise click.UsageError(
                "--data has answers, --pictures and --questions have none: give one of them"
            )
        return None
    if pictures is None and questions is None:
        raise click.UsageError("give --data FILE.jsonl, or --pictures FOLDER and --questions FILE")
    if pictures is None or questions is None:
        raise click.UsageError("--pictures FOLDER and --questions FILE go together")
    from pocketvlm_measure.tune.agreement import read_pairs

    return read_pairs(pictures, questions, pairs)
