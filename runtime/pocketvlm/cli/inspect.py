"""Knows `pocketvlm inspect`: what it prints of an artifact, and draws of a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.described import describe, graphs
from pocketvlm.cli.lists import BUDGET, PATH
from pocketvlm.cli.options import cap_options
from pocketvlm.cli.release import this_release
from pocketvlm.cli.terminal import echo, echo_json, printable
from pocketvlm.errors import RequestError
from pocketvlm.files import replace_file

if TYPE_CHECKING:
    from pocketvlm.artifact import Artifact, Manifest


@click.command(epilog="Example: pocketvlm inspect my-artifact --image photo.jpg --overlay kept.png")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--image",
    type=PATH,
    metavar="FILE",
    help="A picture to draw the kept patches of.",
)
@click.option(
    "--video",
    type=PATH,
    metavar="FILE",
    help="A clip instead, frame beside frame.",
)
@click.option("--overlay", type=PATH, metavar="OUT.png", help="The drawing to write.")
@click.option(
    "--prompt",
    metavar="TEXT",
    help="The question, if the method reads the prompt.",
)
@click.option(
    "--budget",
    type=BUDGET,
    metavar="K",
    help="Visual tokens to keep per tile; the artifact's default if not given.",
)
@cap_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(
    directory: Path,
    image: Path | None,
    video: Path | None,
    overlay: Path | None,
    prompt: str | None,
    budget: int | None,
    max_pixels: int | None,
    max_tiles: int | None,
    as_json: bool,
) -> None:
    """Print the graphs, sizes, budgets, precisions and parity figures of the artifact in DIR.

    With --image or --video and --overlay, draw which patches of a picture, or of the frames of a
    clip, are kept: those in colour, the others dimmed.
    """
    from pocketvlm.artifact import Artifact
    from pocketvlm.layouts import counting_layout

    medium = video if image is None else image
    if (medium is None) != (overlay is None) or (image is not None and video is not None):
        raise click.UsageError("--image and --overlay go together, or --video and --overlay")
    if prompt is not None and overlay is None:
        raise click.UsageError("--prompt is for --overlay")
    if (
        overlay is not None
        and medium is not None
        and overlay.exists()
        and medium.exists()
        and overlay.samefile(medium)
    ):
        raise RequestError(
            f"--overlay {overlay} is the picture itself",
            advice="give another file to draw into",
            setting="overlay",
        )
    artifact = Artifact.open(directory, allow_rejected=True)
    artifact = artifact.capped(max_pixels=max_pixels, max_tiles=max_tiles)
    if max_pixels or max_tiles:
        counting_layout(artifact)  # refuses what the artifact does not have
    kept: dict[str, Any] = {}
    if medium is not None and overlay is not None:
        kept = draw_overlay(
            artifact, medium, overlay, budget, is_clip=video is not None, prompt=prompt
        )
    if as_json:
        echo_json(facts(artifact.manifest) | {"read_by": f"pocketvlm {this_release()}"} | kept)
        return
    for line in describe(artifact):
        echo(printable(line))
    if kept:
        echo(f"overlay    {kept['overlay']}: {len(kept['kept_indices'])} patches kept")


def draw_overlay(
    artifact: Artifact,
    medium: Path,
    overlay: Path,
    budget: int | None,
    *,
    is_clip: bool,
    prompt: str | None = None,
) -> dict[str, Any]:
    """Write the drawing as PNG in one step.

    Args:
        artifact: an opened artifact.
        medium: the file of a picture or clip.
        overlay: the PNG file to write.
        budget: visual tokens per tile; None is the artifact's default.
        is_clip: whether ``medium`` is a clip.
        prompt: what is asked about it, for a method that reads the prompt.

    Returns:
        ``overlay`` (the path) and ``kept_indices`` in raster order.

    Raises:
        PocketVLMError: the picture, the budget or the file to write is refused.
    """
    from pocketvlm.layouts import media_read
    from pocketvlm.text.messages import check_media
    from pocketvlm.vision.overlay import draw_budgets

    check_media(media_read(artifact.manifest), pictures=not is_clip, clips=is_clip)
    artifact = artifact.reading("video" if is_clip else "image")
    drawn_at = artifact.manifest.pruning.default_budget if budget is None else budget
    drawing, kept = draw_budgets(artifact, medium, [drawn_at], question=prompt)[drawn_at]
    encoded = io.BytesIO()
    drawing.save(encoded, format="PNG")
    try:
        replace_file(overlay, encoded.getvalue())
    except OSError as error:
        raise RequestError(
            f"{overlay} cannot be written ({error.strerror})",
            advice="give another --overlay",
            setting="overlay",
        ) from error
    return {"overlay": str(overlay), "kept_indices": kept}


def facts(manifest: Manifest) -> dict[str, Any]:
    """The manifest, with ``bytes`` (of all files) and ``graph_bytes`` (of each graph with its data
    file) added."""
    data = manifest.to_dict()
    data["bytes"] = sum(entry.bytes for entry in manifest.files.values())
    data["graph_bytes"] = {name: manifest.bytes_of(name) for _, name in graphs(manifest)}
    return data
