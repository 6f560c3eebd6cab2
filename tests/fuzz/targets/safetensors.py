"""Weights of a checkpoint: headers of safetensors files, and their index."""

import json
import struct
from pathlib import Path
from random import Random

import numpy as np
from safetensors.numpy import save

from fuzz.base import OUTSIDE, Target, put
from fuzz.byte_changes import NUMBERS, damaged
from fuzz.json_changes import changed, written
from pocketvlm_export.checkpoint.headers import read_headers
from pocketvlm_export.checkpoint.source import locate
from pocketvlm_export.checkpoint.weights import Weights

_INDEX = "model.safetensors.index.json"


class Fuzz(Target):
    """See the module."""

    links = False  # the Hub's cache is made of links, so a checkpoint's are followed
    threat = (
        "weights whose header states sizes, offsets or files that are not theirs, or that run code"
    )

    def prepare(self, folder: Path) -> None:
        del folder
        tensors = {f"model.layers.{n}.weight": np.ones((4, 3), np.float32) for n in range(4)}
        self.whole = save({**tensors, "norm.bias": np.ones(5, np.float16)}, {"format": "pt"})

    def write(self, random: Random, box: Path) -> None:
        put(box / "config.json", b"{}")
        (size,) = struct.unpack_from("<Q", self.whole)
        header, data = json.loads(self.whole[8 : 8 + size]), self.whole[8 + size :]
        if random.random() < 0.6:
            text = written(random, changed(random, header))
            stated = len(text) if random.random() < 0.9 else random.choice(NUMBERS)
            content = struct.pack("<Q", stated % (1 << 64)) + text + data
        else:
            content = damaged(random, self.whole, head=8 + size)
        if random.random() < 0.7:
            put(box / "model.safetensors", content)
            return
        names = dict.fromkeys(header, "model-1.safetensors")
        if random.random() < 0.3:
            names["other"] = random.choice(OUTSIDE)
        index = {"metadata": {"total_size": 9}, "weight_map": names}
        put(
            box / _INDEX,
            written(random, changed(random, index) if random.random() < 0.7 else index),
        )
        put(box / "model-1.safetensors", content if random.random() < 0.3 else self.whole)

    def use(self, box: Path) -> None:
        source = locate(str(box))
        headers = read_headers(source)
        Weights(source.folder, headers, lambda name: name)
