"""Stages as they are asked for: read, put in order, and refused before any work."""

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from make_checkpoint import PRESETS
from pocketvlm.artifact.stages import Stage, in_order, stamp
from pocketvlm.cli import main
from pocketvlm.errors import RequestError
from pocketvlm_export import ExportOptions


def invoke(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decoder-stage", "1:9"], "keep 9 is outside 1..8 (at budget 9"),
        (["--budget", "18,9", "--decoder-stage", "1:9"], "keep 9 is outside 1..8 (at budget 9"),
        (["--pruner", "none", "--decoder-stage", "1:36"], "keep 36 is outside 1..35"),
        (["--decoder-stage", "1:0:last-token"], "keeps 0 visual tokens by last-token"),
        (["--decoder-stage", "1:4:exit"], "keeps 4 visual tokens by exit, which keeps none"),
        (["--decoder-stage", "0:4"], "layer 0 is outside 1..1"),
        (["--decoder-stage", "2:4"], "layer 2 is outside 1..1"),
        (["--decoder-stage", "1:4:luck"], "a decoder stage by 'luck' is unknown"),
        (
            ["--decoder-stage", "1:4", "--decoder-stage", "1:2"],
            "1:4 1:2 does not keep fewer tokens layer by layer",
        ),
        (
            ["--decoder-stage", "1:4", "--decoder-stage", "2:4"],
            "1:4 2:4 does not keep fewer tokens layer by layer",
        ),
        (["--decoder-stage", "1:4", "--decoder", "both"], "llama.cpp's cache has one length"),
        (["--fastv-layer", "2", "--fastv-keep", "4"], "layer 2 is outside 1..1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_up_front(tiny_checkpoint, tmp_path, arguments, message):
    result = invoke(tiny_checkpoint, "-o", tmp_path / "a", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fastv-keep", "4"], "go together"),
        (["--fastv-layer", "1", "--fastv-keep", "4", "--decoder-stage", "1:3"], "give all of them"),
        (["--decoder-stage", "1"], "is not LAYER:KEEP"),
        (["--decoder-stage", "1:"], "is not LAYER:KEEP"),
        (["--decoder-stage", "1:-4"], "is not LAYER:KEEP"),
        (["--decoder-stage", "1:4:"], "is not LAYER:KEEP"),
        (["--tower-stage", "one:4"], "is not LAYER:KEEP"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_read(tiny_checkpoint, tmp_path, arguments, message):
    result = invoke(tiny_checkpoint, "-o", tmp_path / "a", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_shorthand_is_one_stage(tiny_checkpoint, tmp_path):
    plans = [
        invoke(tiny_checkpoint, "-o", tmp_path / "a", "--dry-run", "--json", *flags).stdout
        for flags in (
            ["--fastv-layer", "1", "--fastv-keep", "4"],
            ["--decoder-stage", "1:4:last-token"],
        )
    ]
    assert plans[0] == plans[1]
    assert '"by": "last-token"' in plans[0]


def test_a_plan_names_its_stages(tiny_checkpoint, tmp_path):
    listing = invoke(tiny_checkpoint, "-o", tmp_path / "a", "--dry-run", "--decoder-stage", "1:4")
    assert ", 4 from layer 1 of the decoder on; nothing written" in listing.stdout + listing.stderr


def test_a_sliding_window(make_tiny, tmp_path):
    checkpoint = make_tiny(PRESETS["tiny-mistral"].but(text={"sliding_window": 128}))
    arguments = [checkpoint, "-o", tmp_path / "a", "--decoder-stage", "1:4", "--dry-run"]
    assert "slides over 128 tokens" in invoke(*arguments).stderr
    assert invoke(*arguments, "--context", "128").exit_code == 0


@pytest.mark.parametrize("given_for", ["decoder_stages", "tower_stages"])
@pytest.mark.parametrize("value", [((1, 2),), ("1:2",), Stage(1, 2), 3, None], ids=str)
def test_what_is_no_stage(given_for, value):
    if isinstance(value, Stage):
        assert getattr(ExportOptions(**{given_for: value}), given_for) == (value,)
        return
    with pytest.raises(RequestError, match="expected stages") as refusal:
        ExportOptions(**{given_for: value})
    assert refusal.value.setting == given_for.removesuffix("s")


@pytest.mark.parametrize("wrong", [{"layer": 1.5}, {"keep": -1}, {"keep": "4"}, {"by": 3}])
def test_what_a_stage_cannot_be(wrong):
    with pytest.raises(RequestError):
        Stage(**{"layer": 1, "keep": 4, **wrong})


_STAGES = st.builds(
    Stage, st.integers(0, 99), st.integers(0, 999), st.sampled_from(["", "exit", "last-token"])
)


@given(_STAGES)
def test_what_is_written_is_read(stage):
    assert Stage.parse(str(stage)) == stage


@given(st.text(max_size=12))
def test_any_text_is_a_stage_or_refused(text):
    try:
        stage = Stage.parse(text)
    except ValueError:
        return
    assert stage.layer >= 0
    assert stage.keep >= 0


@given(st.lists(_STAGES, max_size=4))
def test_the_order_of_stages(stages):
    layers, keeps = [s.layer for s in stages], [s.keep for s in stages]
    ascending = layers == sorted({*layers}) and keeps == sorted({*keeps}, reverse=True)
    assert in_order(stages) == ascending
    assert stamp(stages).count(":") >= len(stages)
