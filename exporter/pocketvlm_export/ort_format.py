"""Knows ORT format, which reduced builds of ONNX Runtime read: graphs converted, and the list of
operators they need.

Conversion and list are `onnxruntime.tools`' work. ONNX Runtime optimizes a graph while it converts
it; what suits only one kind of CPU is left out, so that the files run on any.
"""

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm_export.plan import ExportPlan

FOLDER = "ort"
OPERATORS = f"{FOLDER}/required_operators.config"
_MOST_BYTES = (1 << 31) - 1  # a flatbuffer's size


def check_sizes(plan: ExportPlan) -> None:
    """Raise `PocketVLMError` for a graph that would not fit one .ort file, which holds its weights
    too."""
    weights: dict[str, int] = {}
    for graphs in (*plan.vision.values(), plan.embed, plan.decoder):
        for precision, file in graphs.items():
            # A further budget's graph shares its weights with the first one's as .onnx; as .ort it
            # has its own.
            size = weights.setdefault(f"{file.partition('.')[0]}{precision}", plan.sizes()[file])
            if size > _MOST_BYTES:
                raise RequestError(
                    (
                        f"{file} takes about {size / 1e6:.0f} MB, an .ort file at most "
                        f"{_MOST_BYTES / 1e6:.0f}"
                    ),
                    advice="choose --format onnx, which keeps weights apart",
                )


def convert(plan: ExportPlan, folder: Path) -> ExportPlan:
    """Put an .ort file in the place of every graph under ``folder``; returns the plan that names
    those.

    Raises:
        PocketVLMError: ONNX Runtime cannot write a graph so.
    """
    with _quiet():
        from onnxruntime.tools.convert_onnx_models_to_ort import (
            OptimizationStyle,
            convert_onnx_models_to_ort,
        )

        try:
            convert_onnx_models_to_ort(folder / "onnx", folder / FOLDER, [OptimizationStyle.Fixed])
        except (
            Exception
        ) as error:  # the tool raises what ONNX Runtime raises, which shares no base class
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RequestError(
                f"a graph cannot be written as .ort ({reason[:200]})", advice="choose --format onnx"
            ) from error
    shutil.rmtree(folder / "onnx")
    return plan.renamed(lambda file: f"{FOLDER}/{Path(file).with_suffix('.ort').name}")


def write_operators(plan: ExportPlan, folder: Path) -> None:
    """Write which operators the published graphs need, for ``--include_ops_by_config`` of ONNX
    Runtime's build."""
    path = folder / OPERATORS
    with _quiet():
        from onnxruntime.tools.ort_format_model import create_config_from_models

        create_config_from_models(
            sorted(folder.glob(f"{FOLDER}/*.ort")), path, enable_type_reduction=False
        )
    path.write_text(path.read_text(encoding="utf-8").replace(f"{folder}/", ""), encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools print what they do, and their modules set up logging for the whole process when
    imported."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)  # with a handler there, logging is not set up again
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeHandler(silent)
