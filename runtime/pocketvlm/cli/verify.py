"""Knows `pocketvlm verify`: that an artifact is whole, opens, computes here what it computed where
it was exported, and (on request) still equals its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pocketvlm.cli.described import figures_text, pixels_text
from pocketvlm.cli.lists import PATH
from pocketvlm.cli.options import provider_option, vision_provider_option
from pocketvlm.cli.terminal import echo, echo_json, printable
from pocketvlm.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm.artifact import Artifact
    from pocketvlm.selftest import SelfTestResult


@click.command(epilog="Example: pocketvlm verify my-artifact --against llava-hf/llava-1.5-7b-hf")
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--against",
    metavar="MODEL",
    help="Also compare with this checkpoint: a folder, a hub id or demo.",
)
@provider_option
@vision_provider_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(
    directory: Path,
    against: str | None,
    providers: tuple[str, ...],
    vision_providers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check every file, checksum and graph of the artifact in DIR.

    Its self-test is run too: the graphs' results for a small picture here are compared with those
    at the export. With --provider or --vision-provider, another provider than the CPU computes
    them.

    With --against, run the checkpoint in transformers too and compare; this needs
    pocketvlm[export].
    """
    from pocketvlm.artifact import Artifact
    from pocketvlm.ort.settings import EngineSettings, providers_typed, vision_providers_typed
    from pocketvlm.selftest import needs_trust, run_self_test
    from pocketvlm.selftest.reading import without_self_test
    from pocketvlm.selftest.trust import remember

    settings = EngineSettings(
        providers=providers_typed(providers),
        vision_providers=vision_providers_typed(vision_providers),
    )
    artifact = Artifact.open(directory, check="full")
    if artifact.manifest.self_test is None and needs_trust(settings):
        raise without_self_test(artifact)
    result = check_contents(artifact)
    tested = None if artifact.manifest.self_test is None else run_self_test(artifact, settings)
    if tested is not None and needs_trust(settings):
        remember(artifact, settings, tested)
    result["self_test"] = None if tested is None else tested.to_dict()
    if against is not None:
        result["against"] = {"model": against, **_reference()(directory, against)}
    if as_json:
        echo_json(result)
    else:
        _show(directory, result, tested)
    if tested is not None:
        tested.raise_if_failed(directory)


def _show(directory: Path, result: Mapping[str, Any], tested: SelfTestResult | None) -> None:
    echo(f"{directory}: {result['files']} files and {len(result['graphs'])} graphs are whole")
    for line in _self_test_text(tested):
        echo(printable(line))
    if "against" in result:
        against = result["against"]["model"]
        echo(f"equal to {against} within the bounds of the parity check")
        for part in ("vision", "decoder", "by_precision"):
            if figures := result["against"].get(part):
                echo(f"  {part}: {figures_text(figures)}")
        if pixels := result["against"].get("pixels"):
            echo(f"  pixels: {pixels_text(pixels)}")
        for medium, figures in result["against"].get("media", {}).items():
            for part in ("vision", "decoder"):
                echo(f"  {part} ({medium}): {figures_text(figures[part])}")


def _self_test_text(tested: SelfTestResult | None) -> Iterator[str]:
    """A line for each graph of a self-test, figures beside those out of bounds."""
    if tested is None:
        yield (
            "it has no self-test: export it again to have providers other than the CPU's checked"
        )
        return
    yield (
        f"self-test on {tested.provider}: {'passed' if tested.passed else 'FAILED'} "
        f"({tested.spent_ms:.0f} ms)"
    )
    width = max(len(row.what) for row in tested.graphs)
    for row in tested.graphs:
        figures = "; ".join(map(str, row.figures)) or row.error
        yield f"  {row.what:<{width}}  {'passed' if row.passed else 'FAILED'}  {figures}"
    for engine in tested.left_out:
        yield f"  the decoders of {engine} were left out: it is not installed"


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
        open_session(part, name, metadata.SELECTOR, budget=budget)
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
