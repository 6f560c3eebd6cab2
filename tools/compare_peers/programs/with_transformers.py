"""transformers: generate() in torch, float32 or bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from PIL import Image

from compare_peers.programs.common import Stopwatch, read_settings, serve
from compare_peers.programs.processors import processor_of

options = read_settings()
torch.set_num_threads(options["threads"])
processor = processor_of(options["checkpoint"])
model = transformers.AutoModelForImageTextToText.from_pretrained(
    options["checkpoint"], dtype=getattr(torch, options["dtype"])
).eval()


class Streamer(transformers.generation.streamers.BaseStreamer):
    """Records when tokens come; what comes first is the prompt."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.after_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, or a token."""
        if self.after_prompt:
            self.watch.token()
        self.after_prompt = True

    def end(self) -> None:
        """Nothing to do."""


def answer(picture: Path, watch: Stopwatch) -> int:
    """See `serve`."""
    inputs = processor(images=[Image.open(picture)], text=[options["prompt"]], return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    length = options["new_tokens"]
    with torch.inference_mode():
        model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=length,
            max_new_tokens=length,
            streamer=Streamer(watch),
        )
    return int(inputs["input_ids"].shape[1])


serve(answer, f"transformers {transformers.__version__}, torch {torch.__version__}")
