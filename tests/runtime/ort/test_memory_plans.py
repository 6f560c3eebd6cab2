"""ONNX Runtime keeps a plan of memory for each shape of a graph's inputs, and never forgets one: so
plans are made where shapes are few."""

import numpy as np
import onnxruntime as ort
import pytest

from long_runs.memory import take_sample
from pocketvlm import VLM
from pocketvlm.ort import sessions
from support.tiny_artifact import write_artifact

SHAPES = 400
PLAN = 50  # bytes of one of the smallest graph, at the least


@pytest.fixture
def planned(monkeypatch):
    """Whether each session that is opened makes plans, by its file."""
    made = {}
    real = sessions.ort.InferenceSession

    def note(path, options, **arguments):
        if isinstance(path, str):  # not a few bytes, to try the processor
            made[path.rpartition("/")[2]] = options.enable_mem_pattern
        return real(path, options, **arguments)

    monkeypatch.setattr(sessions.ort, "InferenceSession", note)
    return made


def test_plans_are_made_of_pictures_alone(artifact_dir, planned):
    VLM.load(artifact_dir, budget=12).generate("what?")
    of_pictures = {name for name, plans in planned.items() if plans}
    assert {name.partition("_")[0] for name in of_pictures} == {"vision"}
    assert planned.keys() - of_pictures == {"embed_tokens.onnx", "decoder_model_merged.onnx"}


def growth_by_shapes(file, *, plans):
    """Bytes for each further length of a prompt that a session has read."""
    options = ort.SessionOptions()
    options.enable_mem_pattern, options.intra_op_num_threads = plans, 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def read(lengths):
        for length in lengths:
            session.run(None, {given.name: np.ones((1, length), np.int64)})

    read([SHAPES + 10, *range(1, 10)])
    before = take_sample(0)
    read(range(10, SHAPES + 10))
    return (take_sample(0).heap - before.heap) / SHAPES


def test_a_plan_is_what_grows(tmp_path):
    """The reason for it; where this fails, ONNX Runtime has learned to forget."""
    write_artifact(tmp_path / "artifact", budgets=(6,))
    table = tmp_path / "artifact" / "onnx" / "embed_tokens.onnx"
    with_plans, without = (growth_by_shapes(table, plans=plans) for plans in (True, False))
    assert without < PLAN < with_plans, (without, with_plans)
