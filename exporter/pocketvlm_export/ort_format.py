"""Knows ORT format, which reduced builds of ONNX Runtime read: graphs converted, and the list of
operators they need.

Conversion and list are `onnxruntime.tools`' work. ONNX Runtime optimizes a graph while it converts
it. What suits only one kind of CPU is left out, so that the files run on any.
"""

import shutil
from pathlib import Path

from pocketvlm.errors import RequestError, first_line
from pocketvlm_export import upstream
from pocketvlm_export.plan import ExportPlan
from pocketvlm_export.quiet import quiet_ort_tools

FOLDER = "ort"
OPERATORS = f"{FOLDER}/required_operators.config"
_MOST_BYTES = (1 << 31) - 1  # a flatbuffer's size


def check_sizes(plan: ExportPlan) -> None:
    """Refuse a graph that would not fit one .ort file, which holds its weights too; raises
    `RequestError`."""
    weights: dict[str, int] = {}
    for graphs in (*plan.vision.values(), plan.embed, plan.decoder):
        for precision, file in graphs.items():
            # A further budget's graph shares its weights with the first one's as .onnx; as .ort it
            # has its own.
            size = weights.setdefault(f"{file.partition('.')[0]}{precision}", plan.sizes()[file])
            if size > _MOST_BYTES:
                raise RequestError(
                    f"{file} takes about {size / 1e6:.0f} MB",
                    expected=f"at most {_MOST_BYTES / 1e6:.0f} MB in an .ort file",
                    advice="choose --format onnx, which keeps weights apart",
                    setting="graph_format",
                )


def convert(plan: ExportPlan, folder: Path) -> ExportPlan:
    """Put an .ort file in the place of every graph under ``folder``; returns the plan that names
    those.

    Raises:
        PocketVLMError: ONNX Runtime cannot write a graph so.
    """
    with quiet_ort_tools():
        try:
            upstream.convert_to_ort(folder / "onnx", folder / FOLDER)
        except Exception as error:  # what ONNX Runtime raises shares no other base class
            raise RequestError(
                f"a graph cannot be written as .ort ({first_line(error)})",
                advice="free some disk space, or choose --format onnx",
                setting="graph_format",
            ) from error
    shutil.rmtree(folder / "onnx")
    return plan.renamed(lambda file: f"{FOLDER}/{Path(file).with_suffix('.ort').name}")


def write_operators(folder: Path) -> None:
    """Write which operators the published graphs need, for ``--include_ops_by_config`` of ONNX
    Runtime's build."""
    path = folder / OPERATORS
    with quiet_ort_tools():
        upstream.write_required_operators(sorted(folder.glob(f"{FOLDER}/*.ort")), path)
    path.write_text(path.read_text(encoding="utf-8").replace(f"{folder}/", ""), encoding="utf-8")
