"""Knows which files of an artifact a client in another language fetches, and which graphs go
together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from pocketvlm.artifact import Artifact, Manifest
from pocketvlm_export.onnx_passes import weights_files

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"


def vision_graphs(manifest: Manifest) -> dict[str, Any]:
    """Every vision graph by budget and precision, and the defaults; where tokens are selected by
    the question, the selectors too."""
    vision, pruning = manifest.vision, manifest.pruning
    selectors = {str(budget): file for budget, file in vision.selectors.items()}
    return {
        "default_budget": pruning.default_budget,
        "budgets": list(pruning.budgets),
        "default_precision": vision.default_precision,
        "graphs": {str(budget): dict(files) for budget, files in vision.graphs.items()},
        "extras": list(vision.extras),
        **({"selectors": selectors} if selectors else {}),
    }


def decoder_graphs(manifest: Manifest) -> dict[str, Any] | None:
    """Every ONNX decoder by precision, with the embedding table that goes with it; None where
    there is none."""
    decoder = manifest.decoder
    if not decoder.graphs:
        return None
    return {
        "default_precision": decoder.default_precisions["onnx"],
        "graphs": dict(decoder.graphs),
        "tables": {name: decoder.embed[decoder.tables[name]] for name in decoder.graphs},
        **({"pair": decoder.pair} if decoder.pair else {}),
    }


def weights(artifact: Artifact) -> dict[str, list[str]]:
    """Of every graph of the folder, whatever its budget and precision, the files that its weights
    lie in."""
    return {
        file: [str(PurePosixPath(file).with_name(name)) for name in weights_files(path)]
        for file, path in ((file, artifact.root / file) for file in _graphs(artifact.manifest))
    }


def fetched(artifact: Artifact) -> dict[str, int]:
    """Bytes of every file that a client may fetch, by name."""
    manifest = artifact.manifest
    tests = [manifest.self_test, *(other.self_test for other in manifest.media.values())]
    names = [*_graphs(manifest), *(data for files in weights(artifact).values() for data in files)]
    names += [constant.file for constant in manifest.vision.constants.values()]
    names += manifest.decoder.gguf.values()
    names += [TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE]
    names += [name for test in tests if test for name in (test.file, *test.pictures)]
    paths = ((name, artifact.root / name) for name in dict.fromkeys(names))
    return {name: path.stat().st_size for name, path in paths if path.is_file()}


def _graphs(manifest: Manifest) -> Iterable[str]:
    visions = [manifest.vision, *(other.vision for other in manifest.media.values())]
    files = [file for each in visions for by in each.graphs.values() for file in by.values()]
    files += [file for each in visions for file in each.selectors.values()]
    decoder = manifest.decoder
    return dict.fromkeys([*files, *decoder.embed.values(), *decoder.graphs.values()])
