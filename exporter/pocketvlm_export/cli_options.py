"""Knows the options of `pocketvlm export`; must import without torch."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import click

from pocketvlm.artifact.stages import Stage
from pocketvlm.cli.lists import BUDGETS, EDGES, PATH, SIZE, STAGE, Comma
from pocketvlm.cli.target import takes_target
from pocketvlm.layouts import MEDIA
from pocketvlm_export.caps import MOST_COMPARED
from pocketvlm_export.decoder_stages import DECODER_STAGES
from pocketvlm_export.gguf_types import DEFAULT_GGUF_TYPE, GGUF_TYPES
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.precisions import Part, names_for
from pocketvlm_export.pruning import pruner_names
from pocketvlm_export.targets import export_defaults
from pocketvlm_export.tower_stages import TOWER_STAGES
from pocketvlm_targets import DECODERS, FORMATS

_Command = Callable[..., Any]


def _one_of(names: Collection[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return check


TYPES = Comma(f"GGUF types ({', '.join(GGUF_TYPES)})", _one_of(GGUF_TYPES))


_MEDIA = Comma("media (image, video)", _one_of(MEDIA))


def _precisions(part: Part) -> Comma:
    names = names_for(part)
    return Comma(f"precisions ({', '.join(names)})", _one_of(names))


def _pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise click.BadParameter(f"{key!r}: expected key=value", ctx, param)
    return {key: value for key, _, value in pairs}


def _precision_option(
    part: Part, of: str, default: tuple[str, ...], note: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--PART-precision``: a list of the precisions that a kind of graph comes in."""
    return click.option(
        f"--{part}-precision",
        type=_precisions(part),
        default=default,
        show_default=bool(default),
        metavar="P[,P...]",
        help=f"Precision of {of}: {', '.join(names_for(part))}{note}.",
    )


_OPTIONS: tuple[Callable[[_Command], _Command], ...] = (
    click.argument("model"),
    click.option(
        "-o",
        "--output",
        type=PATH,
        metavar="DIR",
        required=True,
        help="Folder to write.",
    ),
    click.option(
        "--pruner",
        metavar="NAME",
        help=f"Pruning method: {', '.join(pruner_names())}; by default scope, or divprune if a "
        f"picture or tile has more than {MOST_COMPARED} tokens.",
    ),
    click.option(
        "--pruner-option",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_pairs,
        help="Option of the method, such as alpha=0.5, weight=received, features=tower (scope, "
        "score).",
    ),
    click.option(
        "--merge-dropped",
        is_flag=True,
        help="Average each token that the method drops into the kept one most like it; the graph "
        "then serves its own budgets only.",
    ),
    click.option(
        "--budget",
        type=BUDGETS,
        default=(),
        metavar="K[,K...]",
        help="Visual tokens kept per picture, or per tile if it is cut into tiles; a quarter by "
        "default.",
    ),
    click.option(
        "--total-budget",
        type=BUDGETS,
        default=(),
        metavar="T[,T...]",
        help="Instead of --budget: the most visual tokens of a whole picture, in any grid of "
        "tiles.",
    ),
    click.option(
        "--max-pixels",
        type=int,
        metavar="N",
        help="Resize pictures to at most N pixels, height times width, for dynamic resolution; by "
        "default the pixels of 512 visual tokens. `run` may lower it.",
    ),
    click.option(
        "--max-tiles",
        type=int,
        metavar="N",
        help="Cut pictures into at most N parts, for checkpoints with tiles; 4 by default. `run` "
        "may lower it.",
    ),
    click.option(
        "--fixed-size",
        type=SIZE,
        metavar="HxW",
        help="One size in pixels for every picture, for dynamic resolution; for runtimes that need "
        "constant shapes.",
    ),
    click.option(
        "--image-size",
        type=EDGES,
        metavar="N|HxW",
        help="Pixels of every picture or tile, for towers with learnt positions, which are "
        "interpolated; N is NxN. Half the edge is a quarter of the tokens; the default budget is a "
        "quarter of these.",
    ),
    click.option(
        "--layout",
        metavar="NAME",
        help="How a picture is cut, and its tiles combined. LLaVA-NeXT: fastervlm (default when "
        "pruning) or hf. LLaVA-OneVision and LFM2-VL: hf, or whole for one tile per picture.",
    ),
    click.option(
        "--tower-stage",
        type=STAGE,
        multiple=True,
        metavar="LAYER:KEEP[:BY]",
        help="Drop patches inside the vision tower: before this layer, counted from 0, all but "
        f"KEEP per tile, by {', '.join(TOWER_STAGES)} (the first by default). Repeatable, with "
        "smaller KEEP.",
    ),
    click.option(
        "--decoder-stage",
        type=STAGE,
        multiple=True,
        metavar="LAYER:KEEP[:BY]",
        help="Drop visual tokens inside the decoder: before this layer, counted from 0, all but "
        f"KEEP per picture, by {', '.join(DECODER_STAGES)} (the first by default, the last if KEEP "
        "is 0). Repeatable, with smaller KEEP: with 32 layers and 576 tokens PyramidDrop is "
        "8:288, 16:144 and 24:72.",
    ),
    click.option(
        "--fastv-layer",
        type=int,
        metavar="K",
        help="FastV, with --fastv-keep R the same as --decoder-stage K:R.",
    ),
    click.option(
        "--fastv-keep",
        type=int,
        metavar="R",
        help="See --fastv-layer.",
    ),
    click.option(
        "--decoder-scores",
        is_flag=True,
        help="Let the decoder also give its attention to each visual token, so that it can guide a "
        "larger model; see `pocketvlm run --guide`.",
    ),
    click.option(
        "--decoder",
        type=click.Choice(list(DECODERS)),
        default=ExportOptions.decoder,
        show_default=True,
        help="Decoder engine.",
    ),
    _precision_option("vision", "the vision graphs", ExportOptions.vision_precisions),
    click.option(
        "--calibration",
        type=PATH,
        metavar="FOLDER",
        help="Pictures like those of your users; int8_static measures its activations on them.",
    ),
    _precision_option("decoder", "the ONNX decoder", ExportOptions.decoder_precisions),
    _precision_option(
        "embed",
        "its embedding table",
        ExportOptions.embed_precisions,
        "; by default what goes with the decoder's",
    ),
    click.option(
        "--shared-tables/--separate-tables",
        default=ExportOptions.shared_tables,
        show_default=True,
        help="Whether an embedding table tied to the head is stored once, in the decoder's file; "
        "transformers.js in a page needs it in a separate file.",
    ),
    click.option(
        "--gguf-type",
        type=TYPES,
        default=(),
        metavar="T[,T...]",
        help=f"For llama.cpp: {', '.join(GGUF_TYPES)}; {DEFAULT_GGUF_TYPE} by default.",
    ),
    click.option(
        "--portable",
        is_flag=True,
        help="Standard ONNX operators alone, for other engines; slower here.",
    ),
    click.option(
        "--portable-vision",
        is_flag=True,
        help="As --portable, for the vision graphs alone: providers like OpenVINO then run them "
        "whole.",
    ),
    click.option(
        "--format",
        "graph_format",
        type=click.Choice(FORMATS),
        default=ExportOptions.format,
        show_default=True,
        help="File format of the graphs; ort is for reduced builds of ONNX Runtime.",
    ),
    click.option(
        "--context",
        type=int,
        metavar="N",
        help="Longest sequence in tokens, at most the checkpoint's own.",
    ),
    click.option(
        "--memory-limit",
        type=click.IntRange(min=0),
        metavar="MB",
        help="Refuse an export that needs more memory than this on the device; 0 means no limit.",
    ),
    takes_target(export_defaults),
    click.option(
        "--media",
        type=_MEDIA,
        default=(),
        metavar="M[,M...]",
        help="Media of the artifact, image or video or both, for checkpoints with a tower for each "
        "(Video-LLaVA: video by default); each has its own vision graph.",
    ),
    click.option("--revision", metavar="REV", help="Commit, tag or branch of a Hub checkpoint."),
    click.option("--overwrite", is_flag=True, help="Replace an artifact that is already there."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print what would be written, its size and the memory that the export takes; write "
        "nothing.",
    ),
    click.option(
        "--keep-failed",
        type=PATH,
        metavar="DIR",
        help="Keep an export that fails the parity gate in this folder.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def takes_options(command: _Command) -> _Command:
    """Add the argument and the options of an export to its command, in the order of its help.

    FastV's two options reach it as the stage of the decoder that they are.
    """

    @functools.wraps(command)
    def settled(
        decoder_stage: tuple[Stage, ...],
        fastv_layer: int | None,
        fastv_keep: int | None,
        **others: Any,
    ) -> Any:
        stages = _stages(decoder_stage, fastv_layer, fastv_keep)
        return command(decoder_stage=stages, **others)

    decorated: _Command = settled
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _stages(stages: tuple[Stage, ...], layer: int | None, keep: int | None) -> tuple[Stage, ...]:
    """The stages of the decoder, FastV's the only one where it is given."""
    if (layer is None) != (keep is None):
        raise click.UsageError("--fastv-layer and --fastv-keep go together")
    if layer is None or keep is None:
        return stages
    if stages:
        raise click.UsageError("--fastv-layer is a --decoder-stage: give all of them as that")
    return (Stage(layer, keep),)
