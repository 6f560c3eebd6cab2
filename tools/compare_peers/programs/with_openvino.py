"""OpenVINO GenAI: VLMPipeline on a folder that optimum-intel wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from PIL import Image

from compare_peers.programs.common import Stopwatch, read_settings, serve

options = read_settings()
pipeline = openvino_genai.VLMPipeline(
    options["folder"], "CPU", INFERENCE_NUM_THREADS=options["threads"]
)
config = openvino_genai.GenerationConfig()
config.max_new_tokens = config.min_new_tokens = options["new_tokens"]
config.do_sample = False
config.apply_chat_template = False  # the prompt comes with it


class Streamer(openvino_genai.StreamerBase):
    """Records when tokens come."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch = watch

    def write(self, token: object) -> openvino_genai.StreamingStatus:
        """Take a token, or several."""
        for _ in token if isinstance(token, list) else [token]:
            self.watch.token()
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        """Nothing to do."""


def answer(picture: Path, watch: Stopwatch) -> int:
    """See `serve`."""
    config.pruning_ratio = watch.asked.get("pruning_ratio", 0)  # percent
    pixels = openvino.Tensor(np.asarray(Image.open(picture).convert("RGB"))[None])
    done = pipeline.generate(
        options["prompt"], images=[pixels], generation_config=config, streamer=Streamer(watch)
    )
    return int(done.perf_metrics.get_num_input_tokens())


serve(answer, f"openvino-genai {openvino_genai.__version__}")
