"""Memory stays flat over many answers, and nothing breaks where the context is full: the short form
of ``make long``."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from long_runs.filled import fill
from long_runs.memory import Sample, growth, read_samples
from support.tiny_artifact import give_gguf, write_artifact

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory is read as Linux tells it"
)
TOOLS = Path(__file__).parents[2] / "tools"
HAS_LLAMA = all(importlib.util.find_spec(name) for name in ("llama_cpp", "gguf"))
ENGINES = [
    "onnx",
    pytest.param("llama.cpp", marks=pytest.mark.skipif(not HAS_LLAMA, reason="not installed")),
]
ANSWERS, EVERY = 480, 40
SETTLED = 400  # bytes per answer; after so few answers some lists of libraries still grow
LOST = 200  # bytes


@pytest.fixture(params=ENGINES, scope="module")
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def artifact(engine, tmp_path_factory):
    root = tmp_path_factory.mktemp("artifacts") / "tiny"
    write_artifact(root, budgets=(6, 12))
    if engine == "llama.cpp":
        give_gguf(root)
    return root


def ask_many(artifact, engine, out, *options):
    """Samples of a process that is asked the same questions again and again."""
    command = [
        *(sys.executable, "-m", "long_runs.answers", str(artifact), str(out)),
        *("--engine", engine, "--answers", str(ANSWERS), "--every", str(EVERY)),
        *("--cycle", "--features", str(1 << 16), *map(str, options)),
    ]
    path = os.pathsep.join(filter(None, [str(TOOLS), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    samples, counts = read_samples(out)
    assert sum(counts.values()) == ANSWERS
    assert len(counts) == 9  # every kind of question
    return samples


def test_memory_settles_and_no_descriptor_is_lost(artifact, engine, tmp_path):
    samples = ask_many(artifact, engine, tmp_path / "samples.jsonl")
    assert growth(samples, "heap").high < SETTLED
    assert len({sample.descriptors for sample in samples[1:]}) == 1


def test_a_process_that_loses_bytes_is_found_out(tmp_path):
    """So the measurement sees what it is for."""
    write_artifact(tmp_path / "artifact", budgets=(6, 12))
    sound, leaking = (
        growth(
            ask_many(tmp_path / "artifact", "onnx", tmp_path / f"{lost}.jsonl", *options), "heap"
        )
        for lost, options in ((0, ()), (LOST, ("--leak", str(LOST))))
    )
    assert leaking.low > sound.high
    assert leaking.slope - sound.slope > LOST * 0.8


def test_the_context_is_filled_to_its_last_token(artifact, engine):
    """One more is refused, a conversation goes on, and many pictures fit one prompt."""
    assert len(fill(artifact, engine)) == 3


def drawn_samples(slope, *, jump=0, noise=40_000, seed=0):
    """500 samples of 10,000 answers: so many bytes an answer, in whole pages, and at once a jump
    as of a cache that is made larger."""
    draw = np.random.default_rng(seed)
    for number in range(1, 501):
        answers = 20 * number
        used = 3e8 + slope * answers + jump * (number > 470) + draw.normal() * noise
        yield Sample(answers, int(used) // 4096 * 4096, int(used), 6)


@pytest.mark.parametrize("seed", range(5))
def test_a_hundred_bytes_an_answer_are_a_leak(seed):
    for figure in ("uss", "heap"):
        slope = growth(list(drawn_samples(100, seed=seed)), figure)
        assert not slope.is_flat
        assert slope.low > 0
        assert abs(slope.slope - 100) < 20


@pytest.mark.parametrize("jump", [0, 200_000])
def test_neither_noise_nor_one_jump_is(jump):
    slope = growth(list(drawn_samples(0, jump=jump, noise=20_000)), "heap")
    assert slope.is_flat
