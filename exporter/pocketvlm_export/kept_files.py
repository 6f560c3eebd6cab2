"""Knows files of an export that another export of the same checkpoint can use as they are: those of
the decoder, where only the vision graphs differ.

Weights are hard links, which take no room. Graphs are copied, since sealing writes into them.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import RequestError
from pocketvlm.files.folders import put_in_place, staged
from pocketvlm_export.plan import ExportPlan

_GRAPHS = {".onnx"}
_WEIGHTS = ".onnx_data"
# Options of an export that decide what its decoder's files are.
_DECIDING = (
    "decoder",
    "decoder_precisions",
    "embed",
    "shared_tables",
    "gguf",
    "portable",
    "format",
    "decoder_stages",
    "decoder_scores",
)


@dataclass(frozen=True)
class KeptFiles:
    """Where such files are kept, for one checkpoint as one version of the exporter reads it.

    Attributes:
        root: a folder, made when something is kept.
    """

    root: Path

    def take(self, plan: ExportPlan, part: str, names: Iterable[str], folder: Path) -> bool:
        """Put files that were kept into ``folder``; returns whether they were there.

        Args:
            plan: of the export that needs them.
            part: what they are, a word.
            names: of graphs or GGUF files; the weights beside a graph come along.
            folder: of the export.
        """
        kept = self._place(plan, part)
        if not kept.is_dir():
            return False
        for path in _files(kept, names):
            _put(path, folder / path.relative_to(kept))
        return True

    def keep(self, plan: ExportPlan, part: str, names: Iterable[str], folder: Path) -> None:
        """Keep files of ``folder``, whole or not at all; arguments as of `take`.

        Where another export has kept them meanwhile, those stay.
        """
        target = self._place(plan, part)
        try:
            with staged(target) as made:
                for path in _files(folder, names):
                    _put(path, made / path.relative_to(folder))
                put_in_place(made, target, ())
        except RequestError:
            if not target.is_dir():
                raise

    def _place(self, plan: ExportPlan, part: str) -> Path:
        deciding = {name: getattr(plan.options, name) for name in _DECIDING}
        text = repr((part, plan.context, sorted(plan.embed), deciding))
        return self.root / f"{part}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _files(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """The files of these names, and weights beside graphs."""
    for name in names:
        path = folder / name
        yield path
        if (weights := path.with_suffix(_WEIGHTS)).is_file() and path.suffix in _GRAPHS:
            yield weights


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in _GRAPHS:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
