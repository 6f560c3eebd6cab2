"""Knows `pocketvlm export`: what it does and prints; must import without torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pocketvlm.artifact.stages import Stage
from pocketvlm.cli.target import given_by_target
from pocketvlm.cli.terminal import echo, echo_json, printable
from pocketvlm.errors import RequestError
from pocketvlm.files.interrupts import heeded
from pocketvlm.layouts import Medium
from pocketvlm_export.caps import CAPS, Caps
from pocketvlm_export.cli_options import takes_options
from pocketvlm_export.described import (
    describe_caps,
    describe_cost,
    describe_plan,
    describe_report,
    describe_size,
)
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.requirements import INSTALL, check_transformers


@click.command(
    epilog="Example: pocketvlm export llava-hf/llava-1.5-7b-hf -o llava-64 --budget 64,144"
)
@takes_options
def export(
    model: str,
    output: Path,
    pruner: str | None,
    pruner_option: dict[str, str],
    merge_dropped: bool,
    budget: tuple[int, ...],
    tower_stage: tuple[Stage, ...],
    decoder_stage: tuple[Stage, ...],
    total_budget: tuple[int, ...],
    max_pixels: int | None,
    max_tiles: int | None,
    fixed_size: tuple[int, int] | None,
    image_size: tuple[int, int] | None,
    layout: str | None,
    decoder_scores: bool,
    decoder: str,
    vision_precision: tuple[str, ...],
    calibration: Path | None,
    decoder_precision: tuple[str, ...],
    embed_precision: tuple[str, ...],
    shared_tables: bool,
    gguf_type: tuple[str, ...],
    portable: bool,
    portable_vision: bool,
    graph_format: str,
    context: int | None,
    memory_limit: int | None,
    media: tuple[Medium, ...],
    revision: str | None,
    overwrite: bool,
    dry_run: bool,
    keep_failed: Path | None,
    as_json: bool,
) -> None:
    """Export the checkpoint MODEL (a folder, a Hub id, demo or demo-guide) with its visual tokens
    pruned inside the graph.

    The first value of a list is the artifact's default. Nothing is written unless the graphs answer
    as the checkpoint does in transformers.
    """
    options = ExportOptions(
        pruner=pruner,
        pruner_options=pruner_option,
        merge_dropped=merge_dropped,
        budgets=budget,
        tower_stages=tower_stage,
        decoder_stages=decoder_stage,
        total_budgets=total_budget,
        layout=layout,
        caps=Caps(max_pixels, max_tiles, fixed_size, given_by_target(*CAPS, "image_size")),
        image_size=image_size,
        decoder_scores=decoder_scores,
        decoder=decoder,
        vision_precisions=vision_precision,
        decoder_precisions=decoder_precision,
        embed_precisions=embed_precision,
        shared_tables=shared_tables,
        gguf_types=gguf_type,
        portable=portable,
        portable_vision=portable_vision,
        format=graph_format,
        context=context,
        memory_limit=memory_limit,
        media=media,
        revision=revision,
        overwrite=overwrite,
        keep_failed=keep_failed,
        calibration=calibration,
    )
    with heeded():
        pipeline = _pipeline()
        if dry_run:
            plan = pipeline.prepare(model, output, options)
            _print_warnings(plan)
            _print(plan.to_dict(), as_json, describe_plan)
            return
        with _progress() as step:
            report = pipeline.export(model, output, options, step, _print_cost)
        _print(report.to_dict(), as_json, describe_report)


def _pipeline() -> Any:
    """Import what needs torch; raises `RequestError` with the command that installs it."""
    check_transformers()
    try:
        from pocketvlm_export import pipeline
    except ImportError as error:  # all are installed, see pocketvlm.cli: another release
        raise RequestError(f"export needs other releases ({error})", advice=INSTALL) from error
    return pipeline


def _print_cost(plan: Any) -> None:
    """Print to stderr, before any work, what the artifact will take on the device."""
    _print_warnings(plan)
    described = plan.to_dict()
    with tqdm.external_write_mode():
        size = describe_size(described.get("image_size"))
        for line in [*size, *describe_caps(described["caps"]), *described["notes"]]:
            echo(line.strip(), err=True)
        echo(describe_cost(described), err=True)


def _print_warnings(plan: Any) -> None:
    with tqdm.external_write_mode():
        for warning in plan.warnings:
            echo(printable(f"Warning: {warning}"), err=True)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Give a function that prints the step that begins, to stderr and on a terminal only."""
    with tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False) as bar:
        yield lambda text: bar.set_description_str(printable(text), refresh=True)


def _print(
    data: dict[str, Any], as_json: bool, describe: Callable[[dict[str, Any]], Iterator[str]]
) -> None:
    if as_json:
        echo_json(data)
        return
    for line in describe(data):
        echo(line)
