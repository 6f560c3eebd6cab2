"""Knows how a site is put together: the page, its libraries, artifacts and sample pictures in one
folder that any static host serves."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pocketvlm.artifact.integrity import resolve
from pocketvlm.errors import ArtifactError, EngineError, RequestError
from pocketvlm.files import read_text, real_path
from pocketvlm.files.folders import content_of, put_in_place, staged
from pocketvlm.files.interrupts import heeded
from pocketvlm.web import LOCAL, SITE, page_files, site_facts
from pocketvlm.web.libraries import Library, addresses, fetch_library, libraries
from pocketvlm_targets.text import parse_json

FACTS = "using.json"  # of an artifact, for clients; the exporter writes it
_FORMAT = 1  # of using.json
_CARRIED = (FACTS, "pocketvlm.json", "README.md", "LICENSE")  # beside what clients fetch
_MOST_FACTS = 16 << 20  # bytes
# What facts raise that are missing, or of another form.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
_SAMPLE_KINDS = {".png", ".jpg", ".jpeg", ".webp", ".gif"}

Progress = Callable[[str], None]


def servable(artifact: Path) -> dict[str, Any]:
    """The facts of an artifact that a page can answer from; an artifact or a host's folder is never
    changed.

    Raises:
        ArtifactError: no artifact, of before pages read them, or one whose files are missing.
        RequestError: a page cannot answer from it; the reason is in the words.
    """
    path = artifact / FACTS
    if path.is_file():
        path = resolve(artifact, FACTS)
    try:
        if path.stat().st_size > _MOST_FACTS:
            raise ValueError("too large")
        facts = parse_json(read_text(path))
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']}")
        files, needs, decoder = dict(facts["files"]), dict(facts["needs"]), facts["decoder"]
        if not all(isinstance(words, str) for words in needs.values()):
            raise ValueError("needs without words")
        _download(facts)
    except _UNREADABLE as error:
        raise ArtifactError(
            f"{artifact} has no {FACTS} that pages can read ({error})",
            advice="give a folder written by `pocketvlm export`, of this version",
        ) from error
    if decoder is None:
        raise RequestError(
            f"the decoder in {artifact} is for llama.cpp alone, which no page runs",
            advice="export it with --decoder onnx or both, or use `pocketvlm serve`",
        )
    if unserved := _unserved(needs):
        raise RequestError(
            f"no page answers from {artifact}: {unserved}",
            advice="use `pocketvlm serve`, or export it without that",
        )
    for name, size in files.items():
        _check_file(artifact, name, size)
    for name in _beside(artifact):
        resolve(artifact, name)
    return dict(facts)


def write_site(
    output: Path,
    artifacts: Sequence[Path] = (),
    *,
    samples: Sequence[Path] = (),
    questions: Sequence[str] = (),
    registry: str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda _line: None,
) -> dict[str, Any]:
    """Write a site to ``output``, whole or not at all; returns what its ``site.json`` holds.

    Artifacts' files are linked where the disk allows it, else copied. Whatever can be refused is
    refused before anything is fetched.

    Args:
        output: a folder that is new, empty, or with ``overwrite`` a site.
        artifacts: folders; without any the page asks for one.
        samples: pictures to try.
        questions: to begin with.
        registry: see `fetch_library`.
        overwrite: replace a site.
        progress: called with a line on what comes next.

    Raises:
        PocketVLMError: as `servable` and `fetch_library`; two artifacts of one name; a sample that
            is not a picture; ``output`` holds something else or cannot be written.
    """
    target = real_path(output)
    chosen = {name: folder for folder in artifacts for name in [real_path(folder).name]}
    if len(chosen) < len(artifacts):
        raise RequestError("two artifacts have one name", advice="rename one of the folders")
    facts = {name: servable(folder) for name, folder in chosen.items()}
    _check_samples(samples)
    _check_output(output, target, overwrite)
    pinned = libraries()
    fetched = {}
    for library in pinned:
        progress(f"{library.name} {library.version}")
        fetched[library] = fetch_library(library, registry)
    models = [
        {"name": name, "path": f"models/{name}/", "bytes": _download(facts[name])}
        for name in chosen
    ]
    sample_files = [f"samples/{path.name}" for path in samples]
    site = {**site_facts(LOCAL, models, sample_files), "questions": list(questions)}

    def build(folder: Path) -> None:
        _write_page(folder, addresses(pinned))
        _write_libraries(folder / "lib", fetched)
        for name, artifact in chosen.items():
            progress(f"{name}")
            _carry(artifact, facts[name], folder / "models" / name)
        for path in samples:
            _link(path, folder / "samples" / path.name)
        (folder / SITE).write_text(json.dumps(site, indent=1) + "\n", encoding="utf-8")

    with heeded(), staged(target) as folder:
        build(folder)
        _check_output(output, target, overwrite)
        # Only now: a link to an artifact's file changes what the system says of it.
        put_in_place(folder, target, content_of(target))
    return site


def _unserved(needs: Mapping[str, str]) -> str:
    """What an artifact needs that the page's code does not do, in its own words; empty where there
    is none.

    The page's code says it: the list in `facts.mjs` is the only one.
    """
    served = served_needs()
    return "; ".join(words for need, words in needs.items() if need not in served)


def served_needs() -> set[str]:
    """The `needs` of using.json that the page's code serves, as its module states them."""
    source = page_files()["facts.mjs"].read_text(encoding="utf-8")
    listed = re.search(r"SERVED = new Set\(\[(.*?)\]\)", source, re.DOTALL)
    if listed is None:
        raise EngineError("facts.mjs does not say what it serves")
    return set(re.findall(r'"([^"]+)"', listed[1]))


def _download(facts: Mapping[str, Any]) -> int:
    """Bytes of the files that answer unless others are asked for."""
    graphs = [graph["file"] for graph in facts["graphs"].values()]
    names = {*graphs, *(data for graph in graphs for data in facts["weights"].get(graph, ()))}
    return sum(facts["files"].get(name, 0) for name in names)


def _check_file(artifact: Path, name: str, size: int) -> None:
    if resolve(artifact, name).stat().st_size != size:
        raise ArtifactError(
            f"{name} in {artifact} is not as {FACTS} says", advice="copy or export it again"
        )


def _check_samples(samples: Iterable[Path]) -> None:
    names = set()
    for path in samples:
        if path.suffix.lower() not in _SAMPLE_KINDS or not path.is_file():
            raise RequestError(
                f"{path} is not a picture that browsers show",
                expected=f"a file {', '.join(sorted(_SAMPLE_KINDS))}",
                setting="sample",
            )
        if path.name in names:
            raise RequestError(f"two samples are called {path.name}", setting="sample")
        names.add(path.name)


def _check_output(output: Path, target: Path, overwrite: bool) -> None:
    problem = ""
    if target.is_dir():
        names = {path.name for path in target.iterdir()}
        if Path.cwd().is_relative_to(target):
            problem = "is the folder you are in"
        elif names and SITE not in names:
            problem = "is not empty and holds no site"
        elif names and not overwrite:
            raise RequestError(
                f"{output} already holds a site", advice="give --overwrite", setting="overwrite"
            )
    elif os.path.lexists(target):
        problem = "is a file"
    if problem:
        raise RequestError(
            f"{output} {problem}", advice="name a new folder, or an empty one", setting="output"
        )


def _write_page(folder: Path, places: Mapping[str, str]) -> None:
    """The page's files, with the places of its libraries in them: workers know no import map."""
    names = re.compile("|".join(re.escape(f'"{name}"') for name in places))
    for name, path in page_files().items():
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".mjs":
            text = names.sub(lambda match: f'"{places[match[0][1:-1]]}"', text)
        (folder / name).write_text(text, encoding="utf-8")


def _write_libraries(folder: Path, fetched: Mapping[Library, Path]) -> None:
    for library, kept in fetched.items():
        for path in sorted(kept.iterdir()):
            _link(path, folder / library.folder / path.name, copy=True)


def _beside(artifact: Path) -> list[str]:
    """Names of what is carried beside the files that facts list."""
    return [name for name in _CARRIED if (artifact / name).is_file()]


def _carry(artifact: Path, facts: Mapping[str, Any], folder: Path) -> None:
    """The files of an artifact that pages fetch, and what says what they are."""
    for name in dict.fromkeys((*facts["files"], *_beside(artifact))):
        if not name.endswith(".gguf"):
            _link(resolve(artifact, name), folder / name)  # not what a link leads to elsewhere


def _link(source: Path, target: Path, *, copy: bool = False) -> None:
    """A second name of a file, or a copy where the disk does not allow one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        with suppress(OSError):
            os.link(real_path(source), target)
            return
    shutil.copyfile(source, target)
