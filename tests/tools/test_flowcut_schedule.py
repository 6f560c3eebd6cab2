"""FlowCut's own numbers, as stages that an export takes."""

import numpy as np
from click.testing import CliRunner

from flowcut_schedule.__main__ import main
from flowcut_schedule.schedule import flowcut_schedule, left_of
from make_checkpoint import PRESETS
from pocketvlm.artifact.stages import Stage
from pocketvlm_export import ExportOptions
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.pictures import gate_pictures
from support.noise import picture


def test_flowcuts_own_numbers_become_a_schedule(make_tiny):
    """Of a tower with 8 used layers: stages before every second layer, fewer and fewer tokens."""
    folder = make_tiny(PRESETS["tiny-llama"].but(vision={"num_hidden_layers": 9}))
    opened = open_checkpoint(str(folder))
    with quiet_transformers():
        stages = flowcut_schedule(opened, gate_pictures(3, (42, 42)), 6)
    options = ExportOptions("fastervlm", budgets=(6,), tower_stages=stages)
    assert {stage.layer % 2 for stage in stages} == {1}
    assert (stages[-1].layer, stages[-1].keep) == (7, 6)
    assert make_plan(opened, options).tower_stages == stages


def test_the_command_prints_flags_that_export_takes(tiny_checkpoint, tiny_export, tmp_path):
    file = tmp_path / "noise.png"
    picture(60, 50).save(file)
    arguments = [str(tiny_checkpoint), str(tiny_export), str(file), "--keep", "5"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    flags = result.stdout.split()
    assert flags[::2] == ["--tower-stage"] * (len(flags) // 2)
    stages = [Stage.parse(flag) for flag in flags[1::2]]
    assert stages[-1].keep == 5
    assert {stage.by for stage in stages} == {"flowcut"}


def test_what_flowcut_leaves():
    """An even row of attention drops nothing until the end; one patch that has it all drops as much
    as the layers to come allow."""
    assert left_of(np.full(100, 0.5), 10, 4) == 100
    assert left_of(np.full(100, 0.5), 10, 0) == 10
    assert left_of(np.eye(100)[3], 10, 4) == 100 - 45
    assert left_of(np.full(8, 0.5), 10, 4) == 8
    row = np.array([0.5, 0.25, 0.25])
    part = 1 - (1.5 * np.log(2) / np.log(3)) ** 2
    assert left_of(row, 1, 1) == 3 - round(2 * part)
