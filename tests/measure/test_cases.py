"""Which configurations an artifact has, and which of another artifact a case is compared with."""

import dataclasses

import pytest

from pocketvlm.artifact import Manifest
from pocketvlm.errors import RequestError
from pocketvlm_measure.cases import Case, has_precision, sweep
from pocketvlm_measure.evaluation.plan import baseline_cases
from support.tiny_artifact import read_manifest


@pytest.fixture
def manifest(artifact_dir):
    """An artifact of graphs for 6 and 12 tokens, vision in fp32 and fp16, both engines."""
    tiny = Manifest.from_dict(read_manifest(artifact_dir))
    graphs = {k: {"fp32": f"v{k}.onnx", "fp16": f"h{k}.onnx"} for k in tiny.vision.graphs}
    decoder = dataclasses.replace(
        tiny.decoder,
        engines=("onnx", "llama.cpp"),
        default_precisions={"onnx": "fp32", "llama.cpp": "q8_0"},
        graphs={"fp32": "a", "int8": "b"},
        gguf={"q8_0": "c", "f16": "d"},
    )
    vision = dataclasses.replace(tiny.vision, graphs=graphs)
    return dataclasses.replace(tiny, vision=vision, decoder=decoder)


@pytest.mark.parametrize(
    ("engine", "precision", "has"),
    [
        ("onnx", "int8", True),
        ("onnx", "int8+fp32", True),
        ("onnx", "int8+int4", False),
        ("onnx", "q8_0", False),
        ("llama.cpp", "f16", True),
        ("llama.cpp", "q8_0+f16", False),
        ("other", "fp32", False),
    ],
)
def test_precisions_of_an_engine(manifest, engine, precision, has):
    assert has_precision(manifest, engine, precision) is has


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case(12, "onnx", "int8", "fp16", 2), Case(12, "onnx", "int8", "fp16", 2)),
        (Case(5, "llama.cpp", "f16", "fp32"), Case(5, "llama.cpp", "f16", "fp32")),
        (Case(12, "onnx", "int8+fp32", "fp16"), Case(12, "onnx", "int8+fp32", "fp16")),
        (Case(12, "onnx", "int4", "fp16"), Case(12, "onnx", "fp32", "fp16")),
        (Case(12, "onnx", "int8", "int8"), Case(12, "onnx", "int8", "fp32")),
        (Case(12, "llama.cpp", "q4_k_m", "int8"), Case(12, "llama.cpp", "q8_0", "fp32")),
        (Case(12, "other", "f16", "fp16"), Case(12, "onnx", "fp32", "fp16")),
        (Case(13, "onnx", "fp32", "fp32", 1), Case(6, "onnx", "fp32", "fp32", 1)),
    ],
)
def test_a_case_is_compared_with_the_nearest_of_another_artifact(manifest, case, expected):
    assert manifest.pruning.default_budget == 6
    assert baseline_cases(manifest, [case]) == {case: expected}


@pytest.mark.parametrize(
    ("requested", "setting"),
    [
        ({"budgets": [13]}, "budget"),
        ({"decoders": ["other"]}, "decoder"),
        ({"decoder_precisions": ["int4"]}, "decoder_precision"),
        ({"decoders": ["all"], "decoder_precisions": ["q8_0"]}, "decoder_precision"),
        ({"vision_precisions": ["int8"]}, "vision_precision"),
    ],
)
def test_a_refusal_names_the_setting(manifest, requested, setting):
    with pytest.raises(RequestError) as refusal:
        sweep(manifest, **requested)
    assert refusal.value.setting == setting
    assert refusal.value.expected or refusal.value.advice
