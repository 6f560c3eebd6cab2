"""The target of a choice: read by the loader it says what was chosen, and why, with the figures
that were measured."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pocketvlm.artifact import Artifact
from pocketvlm.cli import main
from pocketvlm.errors import RequestError
from pocketvlm_measure.tune.tuning import TuneLimits
from pocketvlm_measure.tune.written import Chosen, written
from pocketvlm_targets import load_target
from support.tiny_artifact import read_manifest, write_manifest
from support.tunings import candidate, evidence, tuning, write_several

MACHINE = "Some CPU @ 3 GHz, 2 cores (4 CPUs)"


@pytest.fixture
def several(tmp_path):
    return write_several(tmp_path)


@pytest.fixture
def read(several, tmp_path):
    """Write the target of a tuning and read it with the loader."""

    def call(made, manifest=None, **stated):
        given = {"model": "demo", "machine": MACHINE, "date": "2026-11-30"} | stated
        manifest = manifest or Artifact.open(several, "sizes").manifest
        path = tmp_path / "device.toml"
        path.write_text(written(Chosen(made, manifest, **given)), encoding="utf-8")
        return load_target(path)

    return call


def test_it_reads_as_the_choice(read):
    target = read(tuning(evidence(), chosen=0))
    assert target.settings() == {
        "description": f"demo on {MACHINE}",
        "pruner": "fastervlm",
        "budget": (36,),
        "decoder": "onnx",
        "vision_precision": ("int8",),
        "decoder_precision": ("int8",),
    }


def test_every_line_has_its_reason_with_figures(read):
    cautious = TuneLimits(max_ttft=60, max_memory=300)
    slow = evidence(candidate(vision_precision="fp32"), "slower", "slower", ratios=(0.8, 0.8))
    case = candidate(max_tiles=2, threads=2)
    made = tuning(evidence(case), slow, chosen=0, limits=cautious)
    target = read(made, memory_limit=300)
    assert set(target.reasons) == set(target.settings())
    assert (target.threads, target.max_tiles, target.memory_limit) == (2, 2, 300)
    assert MACHINE in target.reasons["description"]
    assert "at most 2 points less, first token within 60 ms" in target.reasons["description"]
    assert "-0.8 (-1.7 to +0.4) points" in target.reasons["pruner"]
    assert "on 200 questions" in target.reasons["pruner"]
    assert (
        "41.5 ms (40.0-42.0 in 3 runs), 0.41 of the unpruned model's 100 ms"
        in (target.reasons["budget"])
    )
    assert "231 MB" in target.reasons["decoder"]


def test_what_else_was_tried_is_named_where_nothing_but_that_differs(read):
    others = (
        evidence(candidate(72), "slower", "slower", ratios=(0.6,)),
        evidence(candidate(18), "loses more", "loses more", ratios=(0.3,)),
        evidence(candidate(18, vision_precision="fp32"), "not reached", "no time", ratios=()),
        evidence(candidate(folder="/elsewhere"), "slower", "slower", ratios=(0.7,)),
    )
    reason = read(tuning(evidence(), *others, chosen=0)).reasons["budget"]
    assert "Instead 72: slower, 0.60 of the unpruned time; 18: loses more, 0.30" in reason
    assert "0.70" not in reason
    assert "not reached" not in reason


def test_a_pair_of_precisions_says_how_to_ask_for_it(read):
    target = read(tuning(evidence(candidate(decoder_precision="int8+int4")), chosen=0))
    assert target.decoder_precision == ("int8", "int4")
    assert "--decoder-precision int8+int4" in target.reasons["decoder_precision"]


def test_a_pair_by_which_it_answers_needs_no_asking(read, several):
    manifest = Artifact.open(several, "sizes").manifest
    decoder = replace(manifest.decoder, pair="int8+fp32")
    made = tuning(evidence(candidate(decoder_precision="int8+fp32")), chosen=0)
    reason = read(made, replace(manifest, decoder=decoder)).reasons["decoder_precision"]
    assert "by themselves where memory allows" in reason
    assert "--decoder-precision" not in reason


def test_where_all_are_pruned_nothing_is_called_unpruned(read):
    slow = evidence(candidate(72), "slower", "slower", ratios=(0.6,))
    target = read(tuning(evidence(), slow, chosen=0, pruned=True))
    assert "unpruned" not in " ".join(target.reasons.values())
    assert "0.41 of the baseline's 100 ms" in target.reasons["budget"]
    assert "0.60 of the baseline's time" in target.reasons["budget"]
    assert "points against the baseline" in target.reasons["pruner"]


def test_providers_are_written(read):
    target = read(tuning(evidence(candidate(providers=("openvino",))), chosen=0))
    assert target.provider == ("openvino",)


def test_stages_of_the_tower_are_written(read, several):
    data = read_manifest(several)
    data["vision"]["stages"] = [{"layer": 2, "keep": 20, "by": "even"}]
    write_manifest(several, data, recount=False)
    assert read(tuning(evidence(), chosen=0)).tower_stage == ("2:20:even",)


@pytest.mark.parametrize(("size", "expected"), [([168, 168], 168), ([84, 168], "84x168")])
def test_a_smaller_size_of_all_pictures_is_written(read, several, size, expected):
    manifest = Artifact.open(several, "sizes").manifest
    vision = replace(manifest.vision, image_size=tuple(size), made_for=(336, 336))
    target = read(tuning(evidence(), chosen=0), replace(manifest, vision=vision))
    assert target.image_size == expected
    assert "first token after" in target.reasons["image_size"]


def test_names_that_are_hostile_stay_in_their_lines(read):
    name = 'x"\nbudget = [1]\n\x1b[2J# \u202e'
    target = read(tuning(evidence(), chosen=0), model=name, machine=name)
    assert target.budget == (36,)
    assert target.description.isprintable()
    assert all(reason.isprintable() for reason in target.reasons.values())


def test_agreement_is_called_by_its_name(read):
    figure = "agreement with the unpruned model"
    target = read(tuning(evidence(), chosen=0, figure=figure))
    assert figure in target.reasons["pruner"].lower()
    assert "accuracy" not in " ".join(target.reasons.values())


def test_without_a_choice_there_is_no_target(read):
    with pytest.raises(RequestError, match="nothing that was tried"):
        read(tuning(evidence(verdict="loses more")))


def test_the_commands_take_it(read, several, tmp_path):
    choice = candidate(6, str(several), vision_precision="int8")
    read(tuning(evidence(choice), chosen=0))
    arguments = ["inspect", str(several), "--json"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    listed = CliRunner().invoke(main, ["targets", str(tmp_path / "device.toml"), "--json"])
    settings = json.loads(listed.stdout)["settings"]
    assert settings["budget"] == {"value": [6], "reason": settings["budget"]["reason"]}
    assert "41.5 ms" in settings["budget"]["reason"]
