"""using.json of an artifact, as a site that serves it reads it."""

import copy
import json
import tempfile
from pathlib import Path
from random import Random

from fuzz.base import OUTSIDE, SECRET_TEXT, Target, lead_outside, link_all, put
from fuzz.json_changes import changed, written
from pocketvlm.web.sites import _carry, servable

_FACTS = {
    "format": 1,
    "model": "a model",
    "files": {
        "onnx/vision_encoder.onnx": 3, "onnx/vision_encoder.onnx_data": 4, "tokenizer.json": 2,
        "onnx/decoder.onnx": 3, "gguf/a.gguf": 1,
    },
    "graphs": {"vision": {"file": "onnx/vision_encoder.onnx"},
    "decoder": {"file": "onnx/decoder.onnx"}},
    "weights": {"onnx/vision_encoder.onnx": ["onnx/vision_encoder.onnx_data"]},
    "decoder": {"default_precision": "fp32"},
    "needs": {},
}  # fmt: skip
_LINKS = ("README.md", "LICENSE", "tokenizer.json", "onnx/decoder.onnx", "pocketvlm.json", "onnx")


class Fuzz(Target):
    """See the module."""

    threat = "an artifact whose facts for clients make `pocketvlm web` publish other files, or fail"

    def prepare(self, folder: Path) -> None:
        self.root = folder / "artifact"
        for name, content in (
            *((name, b"a" * size) for name, size in _FACTS["files"].items()), ("pocketvlm.json",
            b"{}"),
        ):  # fmt: skip
            put(self.root / name, content)
        put(self.root / "using.json", json.dumps(_FACTS).encode())
        self.use(self.root)

    def write(self, random: Random, box: Path) -> None:
        link_all(self.root, box)
        facts = copy.deepcopy(_FACTS)
        if random.random() < 0.2:  # a file of another size, the secret's
            facts["files"][random.choice((*OUTSIDE, *facts["files"]))] = len(SECRET_TEXT)
        if random.random() < 0.3:
            lead_outside(box, random.choice(_LINKS))
        if random.random() < 0.02:
            lead_outside(box, "using.json")
            return
        whole = random.random() < 0.3
        put(
            box / "using.json",
            written(random, facts if whole else changed(random, facts), whole=whole),
        )

    def use(self, box: Path) -> None:
        facts = servable(box)
        json.dumps(facts)
        with tempfile.TemporaryDirectory() as folder:
            _carry(box, facts, Path(folder) / "models" / "a")
