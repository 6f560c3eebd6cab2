"""A Ray cluster of two workers answers as one process does, though a worker is killed in the
middle."""

import contextlib
import json

import psutil
import pytest

from pocketvlm import PocketVLMError
from pocketvlm_measure.evaluation.engines.local import Inline
from pocketvlm_measure.evaluation.engines.ray import Ray, connect
from pocketvlm_measure.evaluation.metrics import METRICS
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_measure.evaluation.run import evaluate

ray = pytest.importorskip("ray", reason="Ray has no wheel here: pip install 'pocketvlm[cluster]'")
EXACT = METRICS["exact"]


@pytest.fixture(scope="module")
def cluster():
    """One of this machine alone, as ``--engine ray`` starts it."""
    connect(ray, cpus=2)
    yield
    ray.shutdown()


class Killing(Ray):
    """As `Ray`, but that a worker at work is killed once the first answers are there."""

    def answered(self, tasks):
        killed = None
        for pair in super().answered(tasks):
            if killed is None:
                killed = kill_a_worker()
            yield pair
        assert killed


def kill_a_worker():
    """End a process that answers at this moment, as a lack of memory would; returns its number."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "ray::answer_task" in (process.name(), *process.cmdline()):
                    process.kill()
                    return process.pid


def rows(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(
        json.dumps({k: v for k, v in row.items() if k != "ttft_ms"}, sort_keys=True)
        for row in lines
    )


def test_a_worker_that_is_killed_changes_nothing(cluster, asked, write_set, tmp_path):
    data = read_questions(write_set(60))
    evaluate(data, asked, EXACT, tmp_path / "a.jsonl", Inline())
    evaluate(data, asked, EXACT, tmp_path / "b.jsonl", Killing(2))
    assert rows(tmp_path / "b.jsonl") == rows(tmp_path / "a.jsonl")


def test_a_refusal_on_the_cluster_is_one_here(cluster, asked, write_set, tmp_path, artifact_dir):
    (artifact_dir / "onnx" / "vision_encoder.k12.onnx").unlink()
    with pytest.raises(PocketVLMError, match=r"vision_encoder\.k12\.onnx") as caught:
        evaluate(read_questions(write_set(4)), asked, EXACT, tmp_path / "a.jsonl", Ray(2))
    assert "\n" not in str(caught.value)
