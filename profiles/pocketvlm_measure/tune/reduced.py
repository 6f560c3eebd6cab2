"""Knows how the folder of a chosen configuration is made of an artifact that holds more, without
the checkpoint, and without any graph being changed.

Graphs keep the artifact id that is stamped into them: it says which export they are of. What tells
the smaller folder from the larger one is its files table, as for any two artifacts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from pocketvlm.artifact import MANIFEST_NAME, Artifact, Manifest, pick_graph
from pocketvlm.artifact.specs import DecoderSpec, Parity, Vision
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.files import real_path
from pocketvlm.files.folders import put_in_place, staged
from pocketvlm.files.interrupts import heeded
from pocketvlm_measure.cases import Case
from pocketvlm_measure.progress import progress
from pocketvlm_measure.tune.self_test import described, measured_anew, narrowed, with_self_test

_WEIGHTS = "_data"  # how the names of files with a graph's weights end
# They describe every graph of the larger folder; the exporter writes them.
_OUTDATED = {"USING.md", "using.json"}
_CARD = "README.md"  # outside the files table, since people edit it
_FENCE = "---\n"  # around the head of a model card
_PART = (
    "> This folder is a part of the artifact that is described below: of its graphs, budgets and "
    "precisions it holds those that `pocketvlm inspect` lists."
)
_GGUF = ".gguf"  # has all its weights in it
_BLOCK = 1 << 20


def check_output(output: Path) -> None:
    """Refuse a folder that holds anything, or a place where none can be made; raises
    `RequestError`."""
    target = real_path(output)
    problem = ""
    if target.is_dir():
        problem = "is not empty" if any(target.iterdir()) else ""
        if Path.cwd().is_relative_to(target):
            problem = "is the folder you are in"
    elif os.path.lexists(target):
        problem = "is a file"
    elif not target.parent.is_dir():
        problem = f"cannot be made: there is no folder {target.parent}"
    if problem:
        raise RequestError(
            f"--export {output} {problem}",
            advice="name a new folder in one that exists",
            setting="export",
        )


def reduced_manifest(artifact: Artifact, case: Case) -> Manifest:
    """Return the manifest of an artifact that answers as ``case`` does unless something else is
    asked for, and that has nothing it does not need for that.

    Media beside the one that ``case`` is about stay as they are. It has a self-test where the
    artifact's own holds for it, see `self_test.narrowed`.

    Raises:
        RequestError: the checkpoint is needed for it: a budget without a graph of its own, or
            smaller pictures.
    """
    manifest = artifact.manifest
    graph = pick_graph(manifest, case.budget)
    for setting, value, stated in (
        ("budget", case.budget, graph),
        ("max_pixels", case.max_pixels, manifest.vision.caps.get("max_pixels")),
        ("max_tiles", case.max_tiles, manifest.vision.caps.get("max_tiles")),
    ):
        if value is not None and value != stated:
            flag = f"--{setting.replace('_', '-')}"
            raise RequestError(
                f"{artifact.root} has no graph of its own for {flag} {value}",
                advice=f"export the checkpoint again with {flag} {value}, or give that whenever it "
                "answers (--write-target writes a file that does)",
                setting="export",
            )
    vision, decoder = _vision(manifest.vision, graph, case), _decoder(manifest, case)
    pruning = dataclasses.replace(manifest.pruning, budgets=(graph,), default_budget=graph)
    smaller = dataclasses.replace(manifest, pruning=pruning, vision=vision, decoder=decoder)
    smaller = dataclasses.replace(smaller, parity=_parity(smaller))
    needed = _needed(artifact, smaller)
    files = {name: entry for name, entry in manifest.files.items() if name in needed}
    smaller = dataclasses.replace(smaller, files=files)
    smaller = with_self_test(smaller, narrowed(artifact, smaller))
    return Manifest.from_json(smaller.to_json())


def write_reduced(artifact: Artifact, case: Case, output: Path) -> Manifest:
    """Write the artifact of `reduced_manifest` to ``output``, whole or not at all; returns its
    manifest.

    Every file is compared with its checksum while it is copied. A self-test that does not hold for
    it is measured again where the exporter is installed, and left out elsewhere. So are USING.md
    and using.json, which other clients read.

    Raises:
        PocketVLMError: see `reduced_manifest`, something is at ``output``, it cannot be written,
            or a file is not what the manifest says.
    """
    manifest = reduced_manifest(artifact, case)
    check_output(output)
    target = real_path(output)
    with heeded(), staged(target, setting="export") as folder:
        _copy(artifact, manifest, folder)
        if artifact.manifest.self_test is not None and manifest.self_test is None:
            manifest = measured_anew(folder, manifest)
        manifest = described(folder, manifest)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        Artifact.open(folder, "sizes")
        put_in_place(folder, target, (), setting="export")
    return manifest


def _vision(vision: Vision, graph: int, case: Case) -> Vision:
    """The vision side with one graph."""
    precision = case.vision_precision
    return dataclasses.replace(
        vision,
        graphs={graph: {precision: vision.graphs[graph][precision]}},
        default_precision=precision,
        totals={key: value for key, value in vision.totals.items() if key == str(graph)},
        selectors={key: value for key, value in vision.selectors.items() if key == graph},
    )


def _decoder(manifest: Manifest, case: Case) -> DecoderSpec:
    """The decoder with one engine, in the precisions that it answers in: two graphs are its pair,
    and the one that prefills is the default."""
    decoder, engine = manifest.decoder, case.decoder
    parts = case.decoder_precision.split("+")
    files = {name: decoder.by_engine[engine][name] for name in parts}
    on_graphs = decoder.by_engine[engine] is decoder.graphs
    tables = {name: decoder.tables[name] for name in files} if on_graphs else {}
    read = {*tables.values(), *filter(None, [manifest.vision.selector_table])}
    return dataclasses.replace(
        decoder,
        engines=(engine,),
        default_engine=engine,
        default_precisions={engine: parts[0]},
        pair=case.decoder_precision if on_graphs and len(files) == 2 else "",
        graphs=files if on_graphs else {},
        gguf={} if on_graphs else files,
        tables=tables,
        embed={name: file for name, file in decoder.embed.items() if name in read},
    )


def _parity(manifest: Manifest) -> Parity:
    """The figures of what is left; those of float32 are of the export as a whole."""
    decoder, vision = manifest.decoder, manifest.vision
    left = {*decoder.graphs, *decoder.gguf, *decoder.embed}
    left |= {name for graphs in vision.graphs.values() for name in graphs}
    parity = manifest.parity
    figures = {name: value for name, value in parity.by_precision.items() if name in left}
    return dataclasses.replace(parity, by_precision=figures)


def _graphs(manifest: Manifest) -> set[str]:
    """Every graph and GGUF file that a manifest names, of all media."""
    decoder = manifest.decoder
    names = {*decoder.embed.values(), *decoder.graphs.values(), *decoder.gguf.values()}
    for vision in (manifest.vision, *(medium.vision for medium in manifest.media.values())):
        names |= {file for graphs in vision.graphs.values() for file in graphs.values()}
        names |= set(vision.selectors.values())
    return names


def _needed(artifact: Artifact, smaller: Manifest) -> set[str]:
    """Names of all files but those that only graphs which are left out read."""
    graphs = _graphs(smaller)
    weights = {name for name in artifact.manifest.files if name.endswith(_WEIGHTS)}
    read = {name for graph in graphs for name in _weights_of(artifact, graph, weights)}
    unread = (_graphs(artifact.manifest) - graphs) | (weights - read) | _OUTDATED | {_CARD}
    return set(artifact.manifest.files) - unread


def _weights_of(artifact: Artifact, graph: str, weights: set[str]) -> Iterator[str]:
    """Those of ``weights`` that a graph names: they lie beside it."""
    if not weights or graph.endswith(_GGUF):
        return
    with (
        artifact.path(graph).open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        folder = graph.rpartition("/")[0]
        for name in weights:
            own, _, last = name.rpartition("/")
            if own == folder and content.find(last.encode()) >= 0:
                yield name


def _copy(artifact: Artifact, manifest: Manifest, folder: Path) -> None:
    """Copy the files of ``manifest`` into ``folder``, and write those that are others there."""
    test = manifest.self_test
    text = None if test is None else narrowed(artifact, manifest)
    for name, entry in progress(manifest.files.items(), desc="copying", unit="file", leave=False):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if test is not None and text is not None and name == test.file:
            target.write_text(text, encoding="utf-8", newline="")
        elif _copied(artifact.path(name), target) != entry.sha256:
            raise ArtifactError(
                f"{artifact.root / name} was altered (its SHA-256 differs)",
                advice="copy or export it again",
            )
    card = artifact.root / _CARD
    if card.is_file() and not card.is_symlink():
        (folder / _CARD).write_text(_of_larger(card.read_text("utf-8", "replace")), "utf-8")


def _copied(path: Path, target: Path) -> str:
    """Copy a file; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as source, target.open("xb") as copy:
        while block := source.read(_BLOCK):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _of_larger(card: str) -> str:
    """The model card, with a line below its head that it describes the larger folder."""
    head, text = "", card
    if card.startswith(_FENCE) and (end := card.find(f"\n{_FENCE}", len(_FENCE))) > 0:
        end += 1 + len(_FENCE)
        head, text = card[:end], card[end:]
    return f"{head}\n{_PART}\n\n{text.lstrip()}"
