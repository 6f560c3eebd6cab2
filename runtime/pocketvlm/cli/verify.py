"""Knows `pocketvlm verify`: that an artifact is whole, opens, and (on request) still equals its
checkpoint."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.inspect import figures_text, pixels_text
from pocketvlm.cli.lists import PATH
from pocketvlm.cli.terminal import echo, echo_json
from pocketvlm.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm.artifact import Artifact


@click.command(epilog="Example: pocketvlm verify my-artifact --against llava-hf/llava-1.5-7b-hf")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--against",
    metavar="MODEL",
    help="Also compare with this checkpoint: a folder, a hub id or demo.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(directory: Path, against: str | None, as_json: bool) -> None:
    """Check every file, checksum and graph of the artifact in DIR.

    With --against, run the checkpoint in transformers too and compare; this needs
    pocketvlm[export].
    """
    from pocketvlm.artifact import Artifact

    artifact = Artifact.open(directory, check="full")
    result = check_contents(artifact)
    if against is not None:
        result["against"] = {"model": against, **_reference()(directory, against)}
    if as_json:
        echo_json(result)
        return
    echo(f"{directory}: {result['files']} files and {len(result['graphs'])} graphs are whole")
    if against is not None:
        echo(f"equal to {against} within the bounds of the parity check")
        for part in ("vision", "decoder", "by_precision"):
            if figures := result["against"].get(part):
                echo(f"  {part}: {figures_text(figures)}")
        if pixels := result["against"].get("pixels"):
            echo(f"  pixels: {pixels_text(pixels)}")
        for medium, figures in result["against"].get("media", {}).items():
            for part in ("vision", "decoder"):
                echo(f"  {part} ({medium}): {figures_text(figures[part])}")


def check_contents(artifact: Artifact) -> dict[str, Any]:
    """Open each graph and the prompt and picture settings; raises `PocketVLMError` at the first
    that is not sound."""
    from pocketvlm.artifact import metadata
    from pocketvlm.decoders.gguf_header import expected_dimensions, read_header
    from pocketvlm.layouts import media_read, open_layouts
    from pocketvlm.ort.sessions import open_session
    from pocketvlm.text.prompts import Prompter
    from pocketvlm.vision.constants import read_constants

    manifest = artifact.manifest
    parts = {medium: artifact.reading(medium) for medium in media_read(manifest)}
    visions = [
        (name, budget, part)
        for part in parts.values()
        for budget, by_precision in part.manifest.vision.graphs.items()
        for name in by_precision.values()
    ]
    for name, budget, part in visions:
        vision = part.manifest.vision
        selects = not vision.selectors
        open_session(part, name, vision.graph_kind, budget=budget if selects else None)
    selectors = [
        (name, budget, part)
        for part in parts.values()
        for budget, name in part.manifest.vision.selectors.items()
    ]
    for name, budget, part in selectors:
        open_session(part, name, metadata.TOKEN_SELECTOR, budget=budget)
    graphs = [(name, metadata.EMBED_TOKENS) for name in manifest.decoder.embed.values()]
    graphs += [(name, manifest.decoder.graph_kind) for name in manifest.decoder.graphs.values()]
    for name, kind in graphs:
        open_session(artifact, name, kind)
    for name in manifest.decoder.gguf.values():
        read_header(artifact.path(name)).check(name, **expected_dimensions(manifest.decoder))
    open_layouts(artifact)
    for part in parts.values():
        read_constants(part)
    Prompter.from_artifact(artifact)
    return {
        "artifact_id": manifest.artifact_id,
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "graphs": [
            *dict.fromkeys(name for name, _, _ in (*visions, *selectors)),
            *(name for name, _ in graphs),
            *manifest.decoder.gguf.values(),
        ],
        "parity": manifest.to_dict()["parity"],
    }


def _reference() -> Any:
    """``verify_against(artifact_dir, model) -> dict`` of the exporter."""
    references = entry_points(group="pocketvlm.references", name="transformers")
    try:
        for reference in references:
            return reference.load()
        reason = "no reference is registered"
    except ImportError as error:
        reason = str(error)
    raise RequestError(
        f"--against needs the exporter ({reason})", advice="pip install 'pocketvlm[export]'"
    )
