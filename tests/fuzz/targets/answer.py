"""A whole artifact of which some file was damaged, behind sound checksums: loaded and asked."""

from pathlib import Path
from random import Random

import numpy as np
import onnx

from fuzz.base import Target, link_all, put
from fuzz.byte_changes import damaged
from fuzz.json_changes import changed, changed_json, written
from fuzz.targets.graph import altered, write_manifest_anew
from pocketvlm import VLM, EngineSettings, Sampling
from support.tiny_artifact import read_manifest, write_artifact

_ASKED = Sampling(max_new_tokens=3)
_JSONS = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


class Fuzz(Target):
    """See the module."""

    threat = "an artifact that opens, and then crashes, hangs or fills whoever asks it"
    memory_mb, headroom_mb = 2000, 0  # a graph's memory is not bounded, see docs/security.md

    def prepare(self, folder: Path) -> None:
        self.root = folder / "artifact"
        write_artifact(self.root, budgets=(6, 12))
        self.graphs = sorted((self.root / "onnx").glob("*.onnx"))
        self.models = {path: onnx.load(path) for path in self.graphs}
        self.picture = np.zeros((30, 40, 3), np.uint8)
        self.use(self.root)

    def write(self, random: Random, box: Path) -> None:
        link_all(self.root, box)
        kind = random.random()
        if kind < 0.45:
            path = random.choice(self.graphs)
            content = altered(random, self.models[path]).SerializeToString()
            put(
                box / "onnx" / path.name,
                content if random.random() < 0.8 else damaged(random, path.read_bytes()),
            )
        elif kind < 0.75:
            name = random.choice(_JSONS)
            put(box / name, changed_json(random, (self.root / name).read_bytes()))
        if kind < 0.75:
            write_manifest_anew(box, self.root)
        else:  # numbers and names of the manifest that pass its checks
            put(
                box / "pocketvlm.json",
                written(random, changed(random, read_manifest(self.root)), whole=True),
            )

    def use(self, box: Path) -> None:
        vlm = VLM.load(box, settings=EngineSettings(threads=1))
        try:
            vlm.generate("what is it?", images=[self.picture], sampling=_ASKED)
        finally:
            vlm.close()
