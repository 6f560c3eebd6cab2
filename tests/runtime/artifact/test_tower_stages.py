"""Manifests of towers that drop patches on their way: what they state, and what contradicts
itself."""

import pytest

from pocketvlm import Artifact
from pocketvlm.artifact.manifest import Manifest
from pocketvlm.artifact.stages import Stage
from pocketvlm.errors import ArtifactError
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import read_manifest, write_artifact, write_manifest

TOWER = {"layers": 4, "hidden": 8, "intermediate": 16, "sequence": 13}


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "a"
    write_artifact(folder, budgets=(3, 6))
    return read_manifest(folder)


def manifest(stated, *stages):
    return Manifest.from_dict(
        {**stated, "vision": {**stated["vision"], "tower": TOWER, "stages": list(stages)}}
    )


def stage(layer, keep, by="farthest"):
    return {"layer": layer, "keep": keep, "by": by}


def test_a_tower_that_drops_nothing_states_nothing_of_it(stated):
    assert "stages" not in manifest(stated).to_dict()["vision"]


def test_what_is_written_is_read_again(stated):
    first = manifest(stated, stage(1, 9), stage(3, 6, "keys"))
    assert Manifest.from_json(first.to_json()) == first
    assert first.vision.stages == (Stage(1, 9, "farthest"), Stage(3, 6, "keys"))


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ([stage(2, 9), stage(1, 8)], "not in order"),
        ([stage(1, 8), stage(2, 8)], "not in order"),
        ([stage(1, 8), stage(1, 7)], "not in order"),
        ([stage(4, 8)], "lie in no layer of it"),
        ([stage(1, 5)], "a budget is larger than what the last stage of its tower keeps"),
        ([stage(1, 9), stage(2, 5)], "a budget is larger than what the last stage"),
        ([stage(-1, 8)], "layer"),
        ([stage(1, 8, "Farthest first")], "by"),
        ([{"layer": 1, "keep": 8}], "by"),
        (["1:8:farthest"], "stages"),
        ([stage(1, 8.5)], "keep"),
    ],
)
def test_what_contradicts_itself_is_refused(stated, stages, reason):
    with pytest.raises(ArtifactError, match=reason):
        manifest(stated, *stages)


def test_a_graph_without_the_stages_that_are_promised_is_refused(tmp_path):
    """As when the files of two artifacts are mixed."""
    folder = tmp_path / "a"
    write_artifact(folder, budgets=(3, 6))
    data = read_manifest(folder)
    data["vision"]["stages"] = [stage(1, 6)]
    write_manifest(folder, data)
    with pytest.raises(ArtifactError, match=r"carries pocketvlm\.stages=nothing, the manifest"):
        VisionEncoder.open(Artifact.open(folder))
