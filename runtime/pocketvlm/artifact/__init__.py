"""Knows how an exported folder is opened: its manifest read and its files checked before anything
uses them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from pocketvlm.artifact import metadata
from pocketvlm.artifact.choices import is_nested, pick_graph, pick_precision, serving_graph
from pocketvlm.artifact.integrity import Check, check_files, resolve
from pocketvlm.artifact.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest, files_digest
from pocketvlm.artifact.replaced import Identity, identity_of, read_whole
from pocketvlm.artifact.specs import FileEntry
from pocketvlm.errors import ArtifactError, RequestError
from pocketvlm.files import read_text, user_path
from pocketvlm.limits import whole
from pocketvlm_targets.text import parse_json

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Artifact",
    "Check",
    "FileEntry",
    "Manifest",
    "files_digest",
    "is_nested",
    "metadata",
    "pick_graph",
    "pick_precision",
    "serving_graph",
]

_MAX_MANIFEST_BYTES = 16 << 20
_MAX_TEXT_BYTES = (
    4 << 20
)  # templates and configurations; the largest published ones have about one MiB


@dataclass(frozen=True)
class Artifact:
    """An opened artifact: its folder and its validated manifest.

    >>> from pocketvlm import Artifact
    >>> artifact = Artifact.open("demo-vlm")
    >>> pruning = artifact.manifest.pruning
    >>> pruning.method, pruning.tokens_before, pruning.budgets
    ('scope', 144, (36,))
    >>> artifact.has("onnx/vision_encoder.onnx")
    True

    Attributes:
        root: the folder.
        manifest: what it states.
        max_pixels: pictures are resized to at most so many pixels; None is the artifact's own
            limit. Its layout refuses more, see `pocketvlm.layouts.base.Layout.capped`.
        max_tiles: likewise for the parts that a picture is cut into.
        identity: distinguishes the folder from a later one of the same name; None if not asked for.
    """

    root: Path
    manifest: Manifest
    max_pixels: int | None = None
    max_tiles: int | None = None
    identity: Identity | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], check: Check = "auto", *, allow_rejected: bool = False
    ) -> Self:
        """Open an exported folder.

        Args:
            path: the folder that holds pocketvlm.json.
            check: ``"auto"`` (checksums of files not yet verified), ``"full"`` (all checksums) or
                ``"sizes"``, which reads no content: changed weights (.onnx_data) of the same size
                then go unnoticed.
            allow_rejected: open a folder whose export failed its parity gate too; to inspect it,
                not to answer from it.

        If another one replaces it meanwhile, it is read again: it is the old one or the new one.

        Raises:
            PocketVLMError: no such folder, a damaged or unknown manifest, a file that differs from
                it.
        """
        root = user_path(path)
        return read_whole(root, lambda: cls._open(root, check, allow_rejected=allow_rejected))

    @classmethod
    def _open(cls, root: Path, check: Check, *, allow_rejected: bool) -> Self:
        identity = identity_of(root)
        manifest = _read_manifest(root)
        if not manifest.passed and not allow_rejected:
            raise ArtifactError(
                f"{root} failed its parity check when it was exported",
                advice="export again",
            )
        _check_requirements(root, manifest)
        check_files(root, manifest.files, check)
        return cls(root, manifest, identity=identity)

    def shortened(self, context: int | None) -> Self:
        """The same artifact for sequences of at most ``context`` tokens, and never more than it was
        made for.

        Raises:
            RequestError: ``context`` is not a whole number, or below one; None leaves the
                artifact's own.
        """
        if context is None:
            return self
        context = whole(context, "context")
        if context < 1:
            raise RequestError(
                f"context {context}",
                expected="at least 1 token",
                advice="leave it out for the artifact's own",
                setting="context",
            )
        decoder = replace(
            self.manifest.decoder, context=min(context, self.manifest.decoder.context)
        )
        return replace(self, manifest=replace(self.manifest, decoder=decoder))

    def capped(self, *, max_pixels: int | None = None, max_tiles: int | None = None) -> Self:
        """The same artifact for smaller pictures, see the class; what is not a whole number is
        refused here, the rest where its layout is made."""
        return replace(
            self,
            max_pixels=None if max_pixels is None else whole(max_pixels, "max_pixels"),
            max_tiles=None if max_tiles is None else whole(max_tiles, "max_tiles"),
        )

    def reading(self, medium: str) -> Self:
        """The artifact as one that reads a single medium of `Manifest.media`, pictures or clips.

        For a medium that is not listed there it is the artifact itself, which reads that one alone.
        """
        if medium not in self.manifest.media:
            return self
        return replace(self, manifest=self.manifest.reading(medium))

    def path(self, name: str) -> Path:
        """The absolute path of a file listed in the manifest; raises `PocketVLMError` for any other
        name."""
        if name not in self.manifest.files:
            raise ArtifactError(
                f"{self.root} holds no {name} according to its manifest", advice="export it again"
            )
        if self.identity is not None and identity_of(self.root) != self.identity:
            raise ArtifactError(
                f"{self.root} was replaced since it was opened", advice="open it again"
            )
        return resolve(self.root, name)

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file of this name."""
        return name in self.manifest.files

    def read_text(self, name: str, max_bytes: int = _MAX_TEXT_BYTES) -> str:
        """The text of a listed file; raises `PocketVLMError` where it is missing, too large or not
        UTF-8."""
        path = self.path(name)
        if (size := self.manifest.files[name].bytes) > max_bytes:
            raise ArtifactError(
                f"{self.root / name} has {size} bytes, at most {max_bytes} are read",
                advice="export the artifact again",
            )
        try:
            return read_text(path)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.root / name} cannot be read ({error})", advice="export it again"
            ) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a listed file; raises `PocketVLMError` where there is none."""
        try:
            data = parse_json(self.read_text(name))
        except ValueError as error:
            raise ArtifactError(
                f"{self.root / name} is not valid JSON ({error})", advice="export it again"
            ) from error
        if not isinstance(data, dict):
            raise ArtifactError(
                f"{self.root / name} holds no JSON object", advice="export it again"
            )
        return data


def _read_manifest(root: Path) -> Manifest:
    if not root.is_dir():
        problem = f"{root} is a file" if root.exists() else f"no such folder: {root}"
        raise ArtifactError(problem, advice="give a folder written by `pocketvlm export`")
    if not (root / MANIFEST_NAME).exists():
        raise ArtifactError(
            f"{root} has no {MANIFEST_NAME}", advice="give a folder written by `pocketvlm export`"
        )
    path = resolve(root, MANIFEST_NAME)
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ArtifactError(
                f"{path} is not a manifest, it is larger than {_MAX_MANIFEST_BYTES >> 20} MiB",
                advice="copy or export it again",
            )
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error})", advice="copy or export it again"
        ) from error
    return Manifest.from_json(text)


def _check_requirements(root: Path, manifest: Manifest) -> None:
    """Hold ``requires.onnxruntime`` against the installed version; other names are for other
    clients."""
    import onnxruntime  # here, because importing it costs more than all the rest of this module

    installed = onnxruntime.__version__
    required = manifest.requires.get("onnxruntime", "")
    try:
        fits = SpecifierSet(required).contains(installed, prereleases=True)
    except InvalidSpecifier as error:
        raise ArtifactError(
            f"{root}/{MANIFEST_NAME} requires onnxruntime {required!r}",
            expected="a range of versions",
            advice="export or download it again",
        ) from error
    if not fits:
        raise ArtifactError(
            f"{root} needs onnxruntime {required}, {installed} is installed",
            advice=f"pip install 'onnxruntime{required}'",
        )
