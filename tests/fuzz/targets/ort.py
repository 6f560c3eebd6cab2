"""Graphs in ORT format, behind sound checksums."""

from pathlib import Path
from random import Random

from fuzz.base import Target, link_all, put
from fuzz.byte_changes import damaged
from fuzz.targets.graph import run_vision, write_manifest_anew
from pocketvlm import Artifact
from pocketvlm_export import upstream
from pocketvlm_export.quiet import quiet_ort_tools
from support.tiny_artifact import read_manifest, write_artifact, write_manifest

_GRAPH = "ort/vision_encoder.ort"


class Fuzz(Target):
    """See the module."""

    threat = "a flatbuffer whose offsets lead ONNX Runtime outside of it"
    memory_mb, headroom_mb = 2000, 0  # a graph's memory is not bounded, see docs/security.md

    def prepare(self, folder: Path) -> None:
        self.root = folder / "artifact"
        write_artifact(self.root)
        (self.root / "ort").mkdir()
        with quiet_ort_tools():
            upstream.convert_to_ort(self.root / "onnx", self.root / "ort")
        data = read_manifest(self.root)
        data["vision"]["graphs"] = {"6": {"fp32": _GRAPH}}
        write_manifest(self.root, data)
        self.content = (self.root / _GRAPH).read_bytes()
        run_vision(Artifact.open(self.root))

    def write(self, random: Random, box: Path) -> None:
        link_all(self.root, box)
        put(box / _GRAPH, damaged(random, self.content, head=random.choice((0, 64, 2000))))
        write_manifest_anew(box, self.root)

    def use(self, box: Path) -> None:
        run_vision(Artifact.open(box))
