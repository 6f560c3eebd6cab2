"""A question set about pictures of noise, for the tiny artifact."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvlm import Artifact
from pocketvlm_measure.cases import sweep
from pocketvlm_measure.evaluation.plan import subjects


@pytest.fixture
def write_set(tmp_path):
    """Write a set of so many questions, two about each picture, and return its path."""

    def write(count=6, name="set.jsonl", extra=()):
        rows = []
        for number in range(count):
            picture = f"{number // 2}.png"
            noise = np.random.default_rng(number // 2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / picture)
            tags = [("even", "odd")[number % 2]]
            rows.append(
                {
                    "image": picture,
                    "question": f"what is {number}?",
                    "answers": ["red", "blue"],
                    "tags": tags,
                }
            )
        lines = [json.dumps(row) for row in rows] + list(extra)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / name

    return write


@pytest.fixture
def asked(artifact_dir):
    """The tiny artifact's cases at three budgets from two graphs."""
    artifact = Artifact.open(artifact_dir)
    return subjects(
        artifact_dir, artifact, sweep(artifact.manifest, budgets=[12, 6, 3], threads=[1])
    )


@pytest.fixture
def examples_dir():
    return Path(__file__).parents[3] / "examples"
