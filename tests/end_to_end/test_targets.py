"""The shipped targets with the demo: exported for real, answered from, within what was said of
their memory."""

import json
import subprocess
import sys
from itertools import groupby

import pytest
from click.testing import CliRunner

from pocketvlm import Artifact
from pocketvlm.cli import main
from pocketvlm_measure.evaluation.questions import read_questions
from pocketvlm_targets import load_target, target_names

PEAK = """
import sys
from pocketvlm import VLM, EngineSettings
from pocketvlm_measure.profiler.memory import peak_memory
vlm = VLM.load(sys.argv[1], settings=EngineSettings(threads=1))
vlm.generate("Describe the picture.", [sys.argv[2]])
print(peak_memory())
"""


def exports(name):
    """What the exported graphs depend on."""
    settings = {"format": "onnx", **load_target(name).settings()}
    elsewhere = ("description", "context", "threads", "memory_limit")
    return sorted((key, value) for key, value in settings.items() if key not in elsewhere)


GROUPS = [list(names) for _, names in groupby(sorted(target_names(), key=exports), key=exports)]


@pytest.fixture(scope="module", params=GROUPS, ids="+".join)
def exported(request, tmp_path_factory):
    """The artifact of the first of targets that export alike, and their names."""
    folder = tmp_path_factory.mktemp("target") / "artifact"
    result = CliRunner().invoke(
        main, ["export", "demo", "-o", str(folder), "--target", request.param[0], "--json"]
    )
    assert result.exit_code == 0, result.stderr
    return folder, request.param, result


def test_the_artifact_is_what_the_target_says(exported):
    folder, names, _ = exported
    target, manifest = load_target(names[0]), Artifact.open(folder, check="full").manifest
    assert manifest.pruning.budgets == target.budget
    assert tuple(manifest.vision.graphs[target.budget[0]]) == target.vision_precision
    assert tuple(manifest.decoder.graphs) == target.decoder_precision
    assert manifest.decoder.context == min(target.context, 2048)
    assert manifest.parity.passed


def test_its_targets_answer_from_it(exported, examples):
    folder, names, _ = exported
    asked = [
        q
        for q in read_questions(examples / "questions.jsonl").questions
        if "scene-3.png" in q.images[0]
    ]
    for name in names:
        right = 0
        for question in asked[:4]:
            command = [
                "run",
                folder,
                "--image",
                examples / "scene-3.png",
                "--prompt",
                question.text,
                "--json",
            ]
            result = CliRunner().invoke(main, [*map(str, command), "--target", name])
            assert result.exit_code == 0, result.stderr
            answer = json.loads(result.stdout)
            assert answer["visual_tokens"]["after"] == load_target(name).budget[0]
            right += answer["text"].strip() == question.answers[0]
        assert right >= 3


def test_memory_stays_below_what_was_said(exported, examples):
    folder, names, result = exported
    estimate = float(result.stderr.split("memory about ")[1].split()[0])
    assert all(estimate <= load_target(name).memory_limit for name in names)
    command = [sys.executable, "-c", PEAK, str(folder), str(examples / "scene-3.png")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6
    assert estimate / 2 <= peak <= estimate
