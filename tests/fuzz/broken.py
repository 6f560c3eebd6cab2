"""The target `manifest` with one check broken, by which the harness is tested: names of files may
lead anywhere."""

from pathlib import Path

from fuzz.targets import manifest
from pocketvlm import artifact
from pocketvlm.artifact import integrity


class Fuzz(manifest.Fuzz):
    """See the module."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)

        def resolve(root: Path, name: str) -> Path:
            target = root / name
            if not target.is_file():
                raise integrity.ArtifactError(f"{target} is missing")
            target.read_bytes()
            return target

        integrity.resolve = artifact.resolve = resolve
