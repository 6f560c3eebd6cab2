"""Knows which options of an export a deployment target gives; imports neither torch nor
transformers."""

from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from pocketvlm_export.pruning import KEEPS_ALL
from pocketvlm_targets import DECODERS, Target

# Keys that mean something only where the decoder in force has that engine.
_OF_ENGINE = {
    "decoder_precision": "onnx",
    "embed_precision": "onnx",
    "shared_tables": "onnx",
    "gguf_type": "llama.cpp",
}
_OF_ANSWERING = {"description", "threads", "provider"}
_PARAMETERS = {"format": "graph_format"}  # keys whose parameter has another name


def export_defaults(target: Target, ctx: click.Context) -> dict[str, Any]:
    """A target's values for `pocketvlm export`, as `pocketvlm.cli.target.TargetDefaults`."""

    def of_engine(value: Any, engine: str) -> Callable[[], Any]:
        return lambda: value if engine in DECODERS[ctx.params["decoder"]] else None

    def budget() -> Any:
        # Without pruning every token is kept, and a total budget sets the budgets of tiles.
        # The latter is declared later, and so is there only if it was typed.
        unused = ctx.params["pruner"] == KEEPS_ALL or ctx.params.get("total_budget")
        return None if unused else target.budget

    def tower_stage() -> Any:
        # A method that keeps everything has no stages. A list: the option may be repeated.
        unused = ctx.params["pruner"] == KEEPS_ALL
        return None if unused else list(target.tower_stage)

    def unless_typed(value: Any, other: str) -> Callable[[], Any]:
        # Both at once are refused. Options that were typed are processed before any other.
        typed = ParameterSource.COMMANDLINE
        return lambda: None if ctx.get_parameter_source(other) is typed else value

    values = {
        _PARAMETERS.get(key, key): (
            of_engine(value, _OF_ENGINE[key]) if key in _OF_ENGINE else value
        )
        for key, value in target.settings().items()
        if key not in _OF_ANSWERING
    }
    if target.tower_stage:
        values["tower_stage"] = tower_stage
    if target.max_pixels:
        values["max_pixels"] = unless_typed(target.max_pixels, "fixed_size")
    if target.fixed_size:
        values["fixed_size"] = unless_typed(target.fixed_size, "max_pixels")
    return values | ({"budget": budget} if target.budget else {})
