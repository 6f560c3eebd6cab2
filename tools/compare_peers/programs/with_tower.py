"""A vision graph alone, under one of ONNX Runtime's execution providers or in OpenVINO itself.

Pictures come as pixel_values in .npy files. What the graph gives is written where the settings say,
so that whoever asks can compare.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare_peers.programs.common import Stopwatch, read_settings, serve

OUTPUTS = ("image_features", "kept_indices")
Run = Callable[[Any], Sequence[Any]]

options = read_settings()


def with_onnxruntime() -> tuple[Run, str]:
    """Open the graph; the version comes with which provider computes how many nodes."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors
    settings.intra_op_num_threads = options["threads"]
    if options.get("unfused"):  # the provider makes nodes of its own of the graph as it is
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.enable_profiling = True
    settings.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
    session = ort.InferenceSession(
        options["graph"], settings, providers=[(options["provider"], options["options"])]
    )

    def run(pixel_values: Any) -> Sequence[Any]:
        made: Sequence[Any] = session.run(OUTPUTS, {"pixel_values": pixel_values})
        return made

    (shape,) = [each.shape for each in session.get_inputs()]
    blank = [size if isinstance(size, int) else 1 for size in shape]
    run(np.zeros(blank, dtype=np.float32))
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = Counter(
        event["args"]["provider"]
        for event in events
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    )
    placed = ", ".join(f"{name} {count}" for name, count in nodes.items())
    return run, f"onnxruntime {ort.__version__}, nodes: {placed}"


def with_openvino() -> tuple[Run, str]:
    """Open the graph in OpenVINO's own runtime."""
    import openvino

    hints = {"INFERENCE_NUM_THREADS": options["threads"], **options["options"]}
    compiled = openvino.Core().compile_model(options["graph"], "CPU", hints)
    request = compiled.create_infer_request()

    def run(pixel_values: Any) -> Sequence[Any]:
        request.infer({"pixel_values": pixel_values})
        return [request.get_tensor(name).data for name in OUTPUTS]

    return run, f"openvino {openvino.__version__}"


compute, version = {"onnxruntime": with_onnxruntime, "openvino": with_openvino}[options["engine"]]()


def answer(picture: Path, watch: Stopwatch) -> int:
    """See `serve`; the only token is what the graph gives."""
    pixel_values = np.load(picture)
    watch.started = time.perf_counter()
    made = compute(pixel_values)
    watch.token()
    np.savez(options["results"], **dict(zip(OUTPUTS, made, strict=True)))
    return 0


serve(answer, version)
