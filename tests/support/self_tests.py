"""Knows how a tiny artifact gets a self-test, and how one is damaged behind sound checksums."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from pocketvlm import Artifact, EngineSettings, Provider
from pocketvlm.layouts import media_read
from pocketvlm_export.selftest import write_self_test
from support.tiny_artifact import read_manifest, write_manifest

# In every wheel for a CPU beside the CPU's own; it computes no node of these graphs, but whoever
# asks for it must pass the self-test.
OTHER = EngineSettings(providers=(Provider("AzureExecutionProvider"),))


def give_self_test(root: Path) -> None:
    """Write the self-test of each medium of a tiny artifact."""
    artifact = Artifact.open(root, check="sizes")
    own, *others = media_read(artifact.manifest)
    tests = {
        medium: dataclasses.asdict(write_self_test(artifact.reading(medium), medium))
        for medium in (own, *others)
    }
    data = read_manifest(root)
    data["self_test"] = tests[own]
    for medium in others:
        data["media"][medium]["self_test"] = tests[medium]
    write_manifest(root, data)


def alter(root: Path, change: Callable[[dict[str, Any]], None], medium: str = "image") -> None:
    """Change the self-test of an artifact, and have its checksums right."""
    path = root / "selftest" / f"{medium}.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    write_manifest(root, read_manifest(root))


def scale_weights(root: Path, graph: str, initializer: str, factor: float) -> None:
    """Multiply a weight of a graph, as a wrong kernel would, and have its checksums right."""
    path = root / graph
    model = onnx.load(path)
    (tensor,) = [each for each in model.graph.initializer if each.name == initializer]
    values = numpy_helper.to_array(tensor)
    values = (values * np.float32(factor)).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, initializer))
    onnx.save(model, path)
    write_manifest(root, read_manifest(root))
