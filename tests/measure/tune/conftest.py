"""A tuning of the tiny artifact about pictures of noise, with times that are made up."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from pocketvlm import Artifact
from pocketvlm_measure.evaluation.engines.local import Inline
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.profiler.once import Sample
from pocketvlm_measure.tune import measured
from pocketvlm_measure.tune.candidates import baseline_among, candidates_in
from pocketvlm_measure.tune.measured import Asking, Measured


@pytest.fixture
def write_set(tmp_path):
    """Write a set of so many questions, two about each picture, and return its path."""

    def write(count=6, extra=()):
        rows = []
        for number in range(count):
            picture = tmp_path / f"{number // 2}.png"
            noise = np.random.default_rng(number // 2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(picture)
            question = f"what is {number}?"
            rows.append({"image": picture.name, "question": question, "answers": ["red"]})
        lines = [json.dumps(row) for row in rows] + list(extra)
        (tmp_path / "set.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / "set.jsonl"

    return write


@pytest.fixture
def runs(monkeypatch):
    """The timed runs that were made, each of which takes ten times its budget in milliseconds."""
    made = []

    def run(_folder, case, _question, _warmup):
        made.append(case)
        return Sample({"ttft": 10.0 * case.budget}, 12, case.budget, 9, 8, 4, 10**8, 0.0)

    monkeypatch.setattr(measured, "run_once", run)
    return made


@pytest.fixture
def opened(artifact_dir, tmp_path):
    """Open a source of the tiny artifact's candidates."""

    @contextmanager
    def open_source(data, answers="a.jsonl", **how):
        artifact = Artifact.open(artifact_dir)
        every = candidates_in(artifact_dir, artifact, threads=1)
        baseline = baseline_among(every)
        how = {"max_new_tokens": 4, **how}
        asking = Asking(read_questions(data), METRICS["exact"], tmp_path / answers, Inline(), **how)
        with Measured(baseline, [one for one in every if one != baseline], asking) as source:
            yield source

    return open_source
