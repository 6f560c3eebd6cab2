"""Real pretrained weights from a checkpoint to an answer: DINOv2-small and SmolLM2-135M-Instruct
out of packages."""

import subprocess

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
from support.gguf_files import HAS_LLAMA_CPP, needs_llama_cpp

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


@pytest.fixture(scope="module")
def checkpoint(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "checkpoint"
    write(*parts, folder)
    return folder


@pytest.fixture(scope="module")
def artifact(checkpoint):
    folder = checkpoint.with_name("artifact")
    decoders = {"decoder": "both", "gguf_types": ("f16",)} if HAS_LLAMA_CPP else {}
    export(str(checkpoint), folder, ExportOptions(budgets=(64,), **decoders))
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint):
    """{question: token ids}, as transformers answers."""
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
    ("engine", "precision"),
    [("onnx", "fp32"), pytest.param("llama.cpp", "f16", marks=needs_llama_cpp)],
)
def test_text_only_answers_are_those_of_transformers_and_sensible(
    artifact, expected, engine, precision
):
    vlm = VLM.load(artifact, decoder=engine, decoder_precision=precision)
    for question, sensible in QUESTIONS.items():
        answer = vlm.generate(question, sampling=Sampling(max_new_tokens=24))
        assert answer.text == sensible
        assert answer.token_ids == expected[question]


def test_what_matters_is_kept_of_a_photograph(artifact, request):
    """The cat's left eye, in the picture's upper left, fills about one patch in 17."""
    vlm = VLM.load(artifact)
    answer = vlm.generate(
        "What is it?",
        images=[request.config.rootpath / "examples" / "chelsea.jpg"],
        sampling=Sampling(max_new_tokens=1),
    )
    rows, columns = np.divmod(np.array(answer.kept_indices[0]), 24)
    eye = (rows >= 7) & (rows <= 11) & (columns >= 5) & (columns <= 10)
    assert eye.mean() > 3 * 30 / 576
