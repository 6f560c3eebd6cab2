"""A refusal names the option that it is about, for programs that show it beside that option."""

import ast
from pathlib import Path

import click
import pytest

import pocketvlm_export
from pocketvlm.artifact.stages import Stage
from pocketvlm.cli import main
from pocketvlm.errors import RequestError
from pocketvlm_export import ExportOptions
from pocketvlm_export.pipeline import prepare


def test_every_setting_that_is_refused_is_an_option_of_its_command():
    """Programs look the option up by this name."""
    exporter = Path(pocketvlm_export.__file__).parent
    names = {
        keyword.value.value
        for file in exporter.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "").endswith("Error")
        for keyword in call.keywords
        if keyword.arg == "setting" and isinstance(keyword.value, ast.Constant)
    }
    context = click.Context(main)
    commands = [main.get_command(context, name) for name in ("export", "tune", "verify")]
    options = {parameter.name for command in commands for parameter in command.params}
    assert len(names) > 12
    assert names <= options


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"budgets": (64,)}, "budget"),
        ({"budgets": (4,), "total_budgets": (4,)}, "total_budget"),
        ({"pruner": "magic"}, "pruner"),
        ({"pruner": "random", "pruner_options": {"seed": "x"}}, "pruner_option"),
        ({"decoder": "mlx"}, "decoder"),
        ({"vision_precisions": ("int3",)}, "vision_precision"),
        ({"decoder_precisions": ("fp32", "fp32")}, "decoder_precision"),
        ({"embed_precisions": ("q8",)}, "embed_precision"),
        ({"portable": True, "embed_precisions": ("int4",)}, "embed_precision"),
        ({"gguf_types": ("q8_0",)}, "gguf_type"),
        ({"layout": "hf"}, "layout"),
        ({"decoder_stages": (Stage(9, 9),)}, "decoder_stage"),
        ({"decoder_stages": (Stage(1, 64),)}, "decoder_stage"),
        ({"decoder_stages": (Stage(1, 4, "magic"),)}, "decoder_stage"),
        ({"decoder_stages": (Stage(1, 4), Stage(1, 2))}, "decoder_stage"),
        ({"portable": True, "format": "ort"}, "portable"),
        ({"format": "tflite"}, "graph_format"),
        ({"context": 40}, "context"),
        ({"memory_limit": 1}, "memory_limit"),
        ({"revision": "main"}, "revision"),
    ],
    ids=str,
)
def test_a_refusal_names_the_setting(tiny_checkpoint, tmp_path, options, setting):
    with pytest.raises(RequestError) as refusal:
        prepare(str(tiny_checkpoint), tmp_path / "out", ExportOptions(**options))
    assert refusal.value.setting == setting
    assert refusal.value.advice or refusal.value.expected
