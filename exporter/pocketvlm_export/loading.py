"""Knows how a named model becomes an opened checkpoint: located, identified, parsed by its family,
weights indexed."""

from dataclasses import dataclass

from pocketvlm.errors import RequestError
from pocketvlm.layouts import Medium
from pocketvlm.text.messages import PLURALS
from pocketvlm_export.checkpoint import (
    Source,
    Weights,
    conflicts,
    fetch_weights,
    generation_conflicts,
    locate,
    read_config,
    read_headers,
)
from pocketvlm_export.families import FAMILIES, Family, VLMSpec
from pocketvlm_export.families.picture_size import own_config
from pocketvlm_export.families.text_models import TEXT_MODELS
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.requirements import check_transformers
from pocketvlm_export.towers import TOWERS

__all__ = [
    "Checkpoint",
    "fetch",
    "inspect_checkpoint",
    "open_checkpoint",
    "reading",
]


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: where it lies, what it is, and its weights, none of which is loaded
    yet.

    ``warnings`` are what whoever exports it should know of its files, a sentence each.
    """

    source: Source
    spec: VLMSpec
    weights: Weights
    warnings: tuple[str, ...] = ()

    @property
    def family(self) -> Family:
        """How the parts of this checkpoint are built."""
        return self.spec.family


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open ``model`` (folder, Hub id or ``demo``); raises `PocketVLMError` for whatever cannot be
    exported."""
    return fetch(inspect_checkpoint(model, revision))


def inspect_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open ``model`` without its weights: of those on the Hub only names, types and shapes are
    read, see `fetch`.

    Raises:
        PocketVLMError: whatever of ``model`` cannot be exported.
    """
    check_transformers()
    source = locate(model, revision)
    with quiet_transformers():
        config = read_config(source, frozenset(FAMILIES), frozenset({*TOWERS, *TEXT_MODELS}))
    family = FAMILIES[config.model_type]
    spec = family.read_processor(family.parse(config), source.folder)
    warnings = (
        *conflicts(source.folder, family.medium),
        *generation_conflicts(source.folder, config),
        *family.contradictions(spec, source.folder),
    )
    return _indexed(source, spec, warnings)


def fetch(checkpoint: Checkpoint) -> Checkpoint:
    """Bring the weights to this machine and return the checkpoint indexed by their files there."""
    if not checkpoint.source.on_hub:
        return checkpoint
    fetch_weights(checkpoint.source)
    return _indexed(checkpoint.source, checkpoint.spec, checkpoint.warnings)


def reading(checkpoint: Checkpoint, medium: Medium) -> Checkpoint:
    """Return the checkpoint as one that reads this medium alone; raises `RequestError` for one that
    its models do not read."""
    family = FAMILIES[checkpoint.spec.config.model_type]
    if medium not in family.media:
        others = " and ".join(PLURALS[other] for other in family.media)
        raise RequestError(
            f"--media {medium} does not apply to {family.model_type} checkpoints: of these "
            f"{others} are exported",
            advice=f"give --media {','.join(family.media)}, or leave it out",
            setting="media",
        )
    if medium == checkpoint.family.medium:
        return checkpoint
    source, chosen = checkpoint.source, family.media[medium]
    spec = chosen.read_processor(chosen.parse(own_config(checkpoint.spec)), source.folder)
    warnings = (
        *conflicts(source.folder, medium),
        *chosen.contradictions(spec, source.folder),
    )
    return _indexed(source, spec, tuple(dict.fromkeys((*checkpoint.warnings, *warnings))))


def _indexed(source: Source, spec: VLMSpec, warnings: tuple[str, ...]) -> Checkpoint:
    weights = Weights(source.folder, read_headers(source), spec.family.canonical)
    return Checkpoint(source, spec, weights, warnings)
