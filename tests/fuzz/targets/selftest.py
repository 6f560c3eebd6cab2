"""The self-test of an artifact, behind sound checksums."""

from pathlib import Path
from random import Random

from fuzz.base import Target, link_all, put
from fuzz.byte_changes import damaged
from fuzz.json_changes import changed_json
from pocketvlm import Artifact
from pocketvlm.layouts import open_layout
from pocketvlm.selftest.pictures import read_tiles
from pocketvlm.selftest.reading import read_expected
from support.self_tests import give_self_test
from support.tiny_artifact import read_manifest, write_artifact, write_manifest


class Fuzz(Target):
    """See the module."""

    threat = "an artifact whose self-test fails, fills or stops whoever checks a device with it"

    def prepare(self, folder: Path) -> None:
        self.root = folder / "artifact"
        write_artifact(self.root, budgets=(6, 12))
        give_self_test(self.root)
        self.files = sorted((self.root / "selftest").iterdir())

    def write(self, random: Random, box: Path) -> None:
        link_all(self.root, box)
        for file in self.files:
            content = file.read_bytes()
            if file.suffix == ".json" and random.random() < 0.9:
                put(box / "selftest" / file.name, changed_json(random, content))
            elif random.random() < 0.2:
                put(box / "selftest" / file.name, damaged(random, content))
        put(box / "pocketvlm.json", b"")
        write_manifest(box, read_manifest(self.root))

    def use(self, box: Path) -> None:
        artifact = Artifact.open(box)
        expected = read_expected(artifact)
        read_tiles(artifact, open_layout(artifact), expected.grid)
