"""pocketvlm.json of an artifact: loaded, described, and asked where it opens."""

import json
import shutil
from pathlib import Path
from random import Random

from fuzz.base import OUTSIDE, SECRET_TEXT, Target, lead_outside, link_all, put
from fuzz.json_changes import changed, written
from pocketvlm import Artifact
from pocketvlm.cli.described import describe
from pocketvlm.layouts import open_layouts
from support.self_tests import give_self_test
from support.tiny_artifact import (
    cut_pictures,
    give_selectors,
    make_dynamic,
    make_thumbnails,
    read_manifest,
    write_artifact,
    write_clip_artifact,
)


def artifacts(folder: Path) -> list[Path]:
    """Tiny artifacts of several kinds."""
    plain, clips, parts, sizes, selected, tiles = roots = [
        folder / name for name in ("plain", "clips", "parts", "sizes", "selected", "tiles")
    ]
    write_artifact(plain, budgets=(6, 12))
    give_self_test(plain)
    write_clip_artifact(clips)
    write_artifact(parts)
    cut_pictures(parts, 2, 2)
    make_dynamic(sizes, write_artifact(sizes), 6, 24)
    give_selectors(selected, write_artifact(selected))
    make_thumbnails(tiles, write_artifact(tiles), 6)
    for root in roots:
        shutil.rmtree(root / "__pycache__", ignore_errors=True)
    return roots


class Fuzz(Target):
    """See the module."""

    threat = "a manifest that names files outside, or crashes, hangs or fills whoever opens it"

    def prepare(self, folder: Path) -> None:
        self.roots = artifacts(folder)

    def write(self, random: Random, box: Path) -> None:
        root = random.choice(self.roots)
        link_all(root, box)
        document, kind = read_manifest(root), random.random()
        name = random.choice(list(document["files"]))
        if kind < 0.15:  # one name of a file, wherever it stands
            other = random.choice(
                (*OUTSIDE, random.choice(list(document["files"])), name + "_data")
            )
            text = json.dumps(document).replace(json.dumps(name), json.dumps(other))
            document = json.loads(text)
        elif kind < 0.25:
            lead_outside(box, name)
            if random.random() < 0.7:
                document["files"][name]["bytes"] = len(SECRET_TEXT)
        else:
            document = changed(random, document)
        put(box / "pocketvlm.json", written(random, document))

    def use(self, box: Path) -> None:
        artifact = Artifact.open(box)
        list(describe(artifact))
        json.dumps(artifact.manifest.to_dict())
        for medium in artifact.manifest.media:
            artifact.reading(medium)
        open_layouts(artifact)
