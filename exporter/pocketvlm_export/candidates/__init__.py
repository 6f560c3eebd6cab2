"""What `pocketvlm tune MODEL` may export, and how one of it is: the entry point ``transformers`` of
the group ``pocketvlm.exporters``.

Measuring imports no exporter. It calls `offer` and `make`, whose arguments and results are plain
values, in a process of its own: torch then takes no memory of what is measured.
"""

from typing import Any

__all__ = ["describe", "make", "offer", "self_test"]


def offer(model: str, **wishes: Any) -> dict[str, Any]:
    """Return what may be exported of ``model``, see `candidates.grid.Grid.to_dict`; nothing is
    fetched but texts, and nothing written.

    Args:
        model: the checkpoint: folder, Hub id, ``demo`` or ``demo-guide``.
        wishes: see `candidates.grid.Wishes`.

    Raises:
        PocketVLMError: the checkpoint cannot be exported, or cannot have what is wished for.
    """
    return _grid(model, wishes).to_dict()


def make(model: str, name: str, root: str, **wishes: Any) -> str:
    """Export one variant into a folder under ``root``, whole or not at all; returns the folder.

    One that is there already is taken as it is. Variants share the decoder's files.

    Args:
        model: the checkpoint.
        name: of the variant, of those that `offer` returned.
        root: where variants are kept.
        wishes: as they were given to `offer`.

    Raises:
        PocketVLMError: see `pocketvlm_export.pipeline.export`.
    """
    from pocketvlm_export.candidates.making import make_variant

    return str(make_variant(model, _grid(model, wishes), name, root))


def self_test(folder: str, manifest: str) -> dict[str, Any]:
    """Write the self-test of an artifact's own medium into its folder, measured of the graphs that
    are there; returns what the manifest says of it.

    Args:
        folder: of the artifact; its manifest need not be there yet.
        manifest: pocketvlm.json, as text.

    Raises:
        PocketVLMError: a graph does not compute.
    """
    import dataclasses
    from pathlib import Path

    from pocketvlm.artifact import Artifact, Manifest
    from pocketvlm.layouts import media_read
    from pocketvlm_export.selftest import write_self_test

    artifact = Artifact(Path(folder), Manifest.from_json(manifest))
    medium, *_ = media_read(artifact.manifest)
    return dataclasses.asdict(write_self_test(artifact.reading(medium), medium))


def describe(folder: str, manifest: str) -> list[str]:
    """Write USING.md and using.json, which other clients read, into an artifact's folder; returns
    their names.

    Args:
        folder: of the artifact; its manifest need not be there yet.
        manifest: pocketvlm.json, as text.

    Raises:
        PocketVLMError: the artifact is damaged.
    """
    from pathlib import Path

    from pocketvlm.artifact import Artifact, Manifest
    from pocketvlm_export.packaging.using import FACTS, USING, write_using

    write_using(Artifact(Path(folder), Manifest.from_json(manifest)))
    return [USING, FACTS]


def _grid(model: str, wishes: dict[str, Any]) -> Any:
    """The grid; raises `RequestError` where what is needed is not installed."""
    from pocketvlm_export.requirements import check_transformers

    check_transformers()
    from pocketvlm_export.candidates.grid import Wishes, grid_of

    return grid_of(model, Wishes.of(wishes))
