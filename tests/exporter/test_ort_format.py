"""`--format ort`: the same answers from .ort files, and the list of operators that a reduced build
needs."""

import json
import re

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner

from pocketvlm import VLM, Artifact, EngineSettings, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.ort_format import OPERATORS, check_sizes
from pocketvlm_export.planning import make_plan


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ort") / "artifact"
    options = ExportOptions(
        "fastervlm", budgets=(9, 18), vision_precisions=("fp16", "fp32"), format="ort"
    )
    export(str(tiny_checkpoint), folder, options)
    return folder


def test_what_lies_there(artifact):
    names = {
        path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()
    }
    graphs = {
        "vision_encoder_fp16",
        "vision_encoder_fp16.k18",
        "vision_encoder",
        "vision_encoder.k18",
    }
    graphs |= {"embed_tokens", "decoder_model_merged"}
    assert {name for name in names if name.startswith(("ort/", "onnx/"))} == {
        OPERATORS,
        *(f"ort/{name}.ort" for name in graphs),
    }
    assert OPERATORS in Artifact.open(artifact, check="full").manifest.files
    assert "transformers.js_config" not in json.loads((artifact / "config.json").read_text())
    assert "ort/decoder_model_merged.ort" in (artifact / "USING.md").read_text()
    assert ".onnx" not in (artifact / "USING.md").read_text().replace("onnxruntime", "")


def test_the_answers_are_those_of_the_onnx_graphs(artifact, tiny_export):
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    for precision, budget in (("fp32", 9), ("fp16", 9), ("fp32", 18), ("fp32", 3)):
        expected, answer = (
            VLM.load(
                folder,
                vision_precision=precision,
                budget=budget,
                settings=EngineSettings(threads=1),
            ).generate("what is it?", [picture], sampling=Sampling(max_new_tokens=8))
            for folder in (tiny_export, artifact)
        )
        assert answer.token_ids == expected.token_ids
        assert answer.kept_indices == expected.kept_indices


def test_the_gate_and_verify_read_the_files_that_are_published(artifact):
    parity = Artifact.open(artifact).manifest.parity
    assert parity.passed
    assert parity.decoder["greedy_equal"] == 16
    result = CliRunner().invoke(main, ["verify", str(artifact), "--json"])
    assert result.exit_code == 0, result.stderr
    assert "ort/vision_encoder.ort" in json.loads(result.stdout)["graphs"]


def test_the_operators_listed_are_those_that_run(artifact, tmp_path):
    """Against the nodes that ONNX Runtime's own profile of a run names."""
    listed = set()
    for line in (artifact / OPERATORS).read_text().splitlines():
        if not line.startswith("#"):
            domain, version, operators = line.split(";")
            assert re.fullmatch(r"[a-z.]+", domain)
            assert version.isdigit()
            listed |= set(operators.split(","))
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(artifact / "ort" / "vision_encoder.ort", options)
    session.run(
        None, {"pixel_values": np.zeros((1, *session.get_inputs()[0].shape[1:]), np.float32)}
    )
    events = json.loads(open(session.end_profiling()).read())  # noqa: PTH123, SIM115
    ran = {event["args"]["op_name"] for event in events if event.get("args", {}).get("op_name")}
    assert {"TopK", "LayerNormalization"} <= ran
    assert ran <= listed
    assert str(artifact.parent) not in (artifact / OPERATORS).read_text()


def test_other_engines_do_not_read_it():
    with pytest.raises(PocketVLMError, match="--portable asks for standard operators"):
        ExportOptions(portable=True, format="ort")


def test_a_graph_beyond_a_flatbuffer_is_refused(tiny_checkpoint):
    plan = make_plan(inspect_checkpoint(str(tiny_checkpoint), None), ExportOptions(format="ort"))
    check_sizes(plan)
    object.__setattr__(plan, "decoder_bytes", 1 << 31)
    with pytest.raises(
        PocketVLMError, match=r"decoder_model_merged\.onnx takes about .* --format onnx"
    ):
        check_sizes(plan)
