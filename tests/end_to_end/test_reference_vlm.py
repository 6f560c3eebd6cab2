"""Real pretrained weights from a checkpoint to an answer: DINOv2-small and SmolLM2-135M-Instruct
out of packages.

Tracing all thirty layers of the decoder takes minutes: ``make test-all`` does. Otherwise its graph
has the first four, and all thirty answer through llama.cpp.
"""

import subprocess
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from pocketvlm import VLM, Sampling
from pocketvlm_export import ExportOptions, export
from reference_vlm.__main__ import write
from reference_vlm.parts import LANGUAGE, TOWER, fetch
from reference_vlm.tower import load_tower
from support.gguf_files import needs_llama_cpp

QUESTIONS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "What is 2 + 3?": "2 + 3 = 5",
}


@pytest.fixture(scope="module")
def parts(request):
    cache = request.config.rootpath / "build" / "parts"
    try:
        return fetch(TOWER, cache), fetch(LANGUAGE, cache)
    except subprocess.CalledProcessError:
        pytest.skip("the packages with pretrained weights cannot be downloaded")


FEW = 4


@dataclass(frozen=True)
class Decoder:
    """How many layers of the decoder are exported, all of them or a few, and what as."""

    layers: int | None
    engine: str
    precision: str


@pytest.fixture(scope="module")
def checkpoints(parts, tmp_path_factory):
    """Of a number of layers, each written once."""

    @cache
    def checkpoint(layers):
        folder = tmp_path_factory.mktemp("reference") / "checkpoint"
        write(*parts, folder, layers=layers)
        return folder

    return checkpoint


@pytest.fixture(scope="module")
def artifacts(checkpoints):
    """Of a decoder, each exported once."""

    @cache
    def artifact(decoder):
        folder = checkpoints(decoder.layers).with_name(decoder.engine)
        options = ExportOptions(
            "fastervlm",
            budgets=(64,),
            decoder=decoder.engine,
            gguf_types=() if decoder.engine == "onnx" else (decoder.precision,),
        )
        export(str(checkpoints(decoder.layers)), folder, options)
        return folder

    return artifact


@pytest.fixture
def decoder(request):
    whole = request.config.getoption("all_combinations")
    if request.param == "llama.cpp":
        return Decoder(None, "llama.cpp", "f16")
    return Decoder(None if whole else FEW, "onnx", "fp32")


@pytest.fixture(scope="module")
def expected(checkpoints):
    """What transformers answers with a number of layers, as {question: token ids}."""
    return cache(lambda layers: answers_of_transformers(checkpoints(layers)))


def answers_of_transformers(checkpoint):
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    answers = {}
    for question in QUESTIONS:
        messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=24)[
            0, inputs["input_ids"].shape[1] :
        ]
        answers[question] = ids.tolist()
    return answers


def test_tower_is_the_one_in_the_package(parts, tmp_path):
    cut = tmp_path / "backbone.onnx"
    graph = onnx.load(parts[0]).graph
    last = [node for node in graph.node if "backbone.layernorm.bias" in node.input][-1].output[0]
    onnx.utils.extract_model(str(parts[0]), str(cut), ["input_image"], [last], check_model=False)
    pictures = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    expected = ort.InferenceSession(cut, providers=["CPUExecutionProvider"]).run(
        None, {"input_image": pictures}
    )[0]
    with torch.inference_mode():
        states = load_tower(parts[0], 224)(torch.from_numpy(pictures)).last_hidden_state.numpy()
    np.testing.assert_allclose(states, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    "decoder", ["onnx", pytest.param("llama.cpp", marks=needs_llama_cpp)], indirect=True
)
def test_text_only_answers_are_those_of_transformers_and_sensible(artifacts, expected, decoder):
    """Sensible where no layer is missing."""
    vlm = VLM.load(artifacts(decoder), decoder=decoder.engine, decoder_precision=decoder.precision)
    for question, sensible in QUESTIONS.items():
        answer = vlm.generate(question, sampling=Sampling(max_new_tokens=24))
        assert answer.token_ids == expected(decoder.layers)[question]
        if decoder.layers is None:
            assert answer.text == sensible


@pytest.mark.parametrize("decoder", ["onnx"], indirect=True)
def test_what_matters_is_kept_of_a_photograph(artifacts, decoder, request):
    """The cat's left eye, in the picture's upper left, fills about one patch in 17."""
    vlm = VLM.load(artifacts(decoder))
    answer = vlm.generate(
        "What is it?",
        images=[request.config.rootpath / "examples" / "chelsea.jpg"],
        sampling=Sampling(max_new_tokens=1),
    )
    rows, columns = np.divmod(np.array(answer.kept_indices[0]), 24)
    eye = (rows >= 7) & (rows <= 11) & (columns >= 5) & (columns <= 10)
    assert eye.mean() > 3 * 30 / 576
