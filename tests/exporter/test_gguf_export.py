"""Exports for llama.cpp: every decoder family and rope passes the gate, broken files do not, the
folder is whole."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from make_checkpoint import PRESETS
from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.cli import main
from pocketvlm.decoders import llama_library
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.gguf import hyper_parameters, tensors
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.planning import make_plan
from pocketvlm_export.verification import ParityError, bounds, gguf, verify_against
from pocketvlm_export.verification.decoder_reference import DecoderReference
from support.gguf_files import needs_llama_cpp

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 500.0,
}
LLAMA3 |= {"original_max_position_embeddings": 64}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500.0,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
PICTURE = np.full((50, 60, 3), 90, dtype=np.uint8)
ANY = ExportOptions(budgets=(9,), decoder="llama.cpp", gguf_types=("f16",))


def rope(parameters):
    return {"rope_parameters": parameters}


@needs_llama_cpp
@pytest.mark.parametrize(
    ("preset", "text"),
    [
        ("tiny-llama", rope(LLAMA3)),
        ("tiny-llama", {"attention_bias": True, "mlp_bias": True, **rope(YARN)}),
        ("tiny-llama", {"head_dim": 24, **rope({**YARN, "attention_factor": 1.3})}),
        ("tiny-llama", rope({**YARN, "beta_fast": 4.0, "truncate": False})),
        ("tiny-mistral", rope(LINEAR)),
        ("tiny-qwen3", rope(LINEAR)),
        ("tiny-qwen2", rope({**YARN, "mscale": 0.7, "mscale_all_dim": 0.5})),
    ],
)
def test_families_and_ropes_answer_as_transformers_does(make_tiny, tmp_path, preset, text):
    report = export(str(make_tiny(PRESETS[preset].but(text=text))), tmp_path / "artifact", ANY)
    figures = report.manifest.parity.by_precision
    assert figures.keys() == {"f32", "f16"}
    assert figures["f32"]["max_abs"] <= 1e-4 * figures["f32"]["max_reference"]
    assert [figures[kind]["greedy_equal"] for kind in figures] == [16, 16]
    assert figures["f32"]["argmax_agreement"] == 1
    assert figures["f16"]["positions"] == 16 + 4 * 32
    assert 0 <= figures["f16"]["kl_mean"] <= figures["f16"]["kl_max"] < 1e-3


def without_scaling(monkeypatch):
    sound = hyper_parameters.add_rope

    def add(writer, config, head_dim, **options):
        plain = config.__class__.from_dict(
            config.to_dict() | rope({"rope_type": "default", "rope_theta": 500.0})
        )
        sound(writer, plain, head_dim, **options)

    monkeypatch.setattr(hyper_parameters, "add_rope", add)


def halves_apart(monkeypatch):
    monkeypatch.setattr(tensors, "interleave_halves", lambda rows, heads: rows)


def without_factors(monkeypatch):
    monkeypatch.setattr(tensors, "rope_factors", lambda config, head_dim: None)


@needs_llama_cpp
@pytest.mark.parametrize(
    ("break_it", "parameters"),
    [(without_scaling, YARN), (without_factors, LLAMA3), (halves_apart, LINEAR)],
)
def test_a_broken_file_is_not_published(make_tiny, tmp_path, monkeypatch, break_it, parameters):
    break_it(monkeypatch)
    with pytest.raises(ParityError, match=r"f32: max_abs"):
        export(
            str(make_tiny(PRESETS["tiny-llama"].but(text=rope(parameters)))),
            tmp_path / "artifact",
            ANY,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def both(tiny_checkpoint, tmp_path_factory):
    """The artifact of `tiny_checkpoint` for both engines; read only."""
    folder = tmp_path_factory.mktemp("both") / "artifact"
    options = ExportOptions(
        budgets=(9,), decoder="both", gguf_types=("q4_k_m", "f16", "q4_0", "q8_0", "f32")
    )
    export(str(tiny_checkpoint), folder, options)
    return folder


@needs_llama_cpp
def test_the_folder_for_llama_cpp_alone(tiny_checkpoint, tmp_path):
    folder, steps = tmp_path / "artifact", []
    export(
        str(tiny_checkpoint), folder, ExportOptions(budgets=(9,), decoder="llama.cpp"), steps.append
    )
    listed = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in listed if "/" in name} == {
        "onnx/vision_encoder.onnx",
        "gguf/decoder-q8_0.gguf",
        "selftest/image.json",
        "selftest/image-0.png",
    }
    manifest = Artifact.open(folder, check="full").manifest
    assert set(manifest.files) == listed - {"pocketvlm.json", "README.md"}
    decoder = manifest.decoder
    assert (decoder.engines, decoder.gguf) == (("llama.cpp",), {"q8_0": "gguf/decoder-q8_0.gguf"})
    assert (decoder.graphs, decoder.embed) == ({}, {})
    assert manifest.parity.decoder == {}
    assert manifest.parity.by_precision.keys() == {"q8_0", "f32"}
    assert manifest.created_by.keys() >= {"gguf", "llama-cpp-python"}
    settings = json.loads((folder / "config.json").read_text())["transformers.js_config"]
    assert settings["dtype"] == {"vision_encoder": "fp32"}
    card = (folder / "README.md").read_text()
    assert "GGUF q8_0" in card
    assert "- gguf" in card
    assert {
        "decoder as GGUF f32, 100%",
        "decoder as GGUF q8_0, 0%",
        "decoder as GGUF q8_0, 100%",
    } <= set(steps)
    answer = VLM.load(folder).generate(
        "what is it?", images=[PICTURE], sampling=Sampling(max_new_tokens=4)
    )
    assert len(answer.token_ids) == 4


@needs_llama_cpp
def test_both_engines_answer_alike(both):
    request = {
        "prompt": "what is it?",
        "images": [PICTURE],
        "sampling": Sampling(max_new_tokens=12),
    }
    onnx, exact = (VLM.load(both, decoder=name).generate(**request) for name in (None, "llama.cpp"))
    assert list(Artifact.open(both).manifest.decoder.gguf) == [
        "q4_k_m",
        "f16",
        "q4_0",
        "q8_0",
        "f32",
    ]
    assert exact.kept_indices == onnx.kept_indices
    for kind in ("f32", "f16"):
        answer = VLM.load(both, decoder="llama.cpp", decoder_precision=kind).generate(**request)
        assert answer.token_ids == onnx.token_ids


@needs_llama_cpp
def test_what_quantizing_costs_is_recorded(both):
    figures = Artifact.open(both).manifest.parity.by_precision
    assert figures.keys() == {"f32", "f16", "q8_0", "q4_0", "q4_k_m"}
    lost = [figures[kind]["kl_mean"] for kind in ("f32", "f16", "q8_0", "q4_k_m", "q4_0")]
    assert lost == sorted(lost)
    assert figures["q4_0"]["argmax_agreement"] < figures["f16"]["argmax_agreement"] == 1


@needs_llama_cpp
def test_verify_against_the_source(both, tiny_checkpoint, make_tiny):
    figures = verify_against(both, str(tiny_checkpoint))
    assert figures["passed"]
    assert figures["by_precision"]["f32"]["greedy_equal"] == 16
    with pytest.raises(ParityError, match="f32"):
        verify_against(both, str(make_tiny(seed=1)))


def test_without_llama_cpp_the_export_is_refused_before_any_work(
    tiny_checkpoint, tmp_path, monkeypatch
):
    def missing(name):
        raise llama_library.PackageNotFoundError(name)

    monkeypatch.setattr(llama_library, "version", missing)
    llama_library.library.cache_clear()
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "a"), "--decoder", "both"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "pip install 'pocketvlm[llama]'" in result.stderr
    assert list(tmp_path.iterdir()) == []
    llama_library.library.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gguf_types": ("q8_0",)},
            "GGUF type q8_0 is for llama.cpp: give --decoder llama.cpp or both",
        ),
        ({"decoder": "llama.cpp", "decoder_precisions": ("fp16",)}, "give --gguf-type instead"),
        (
            {"decoder": "both", "gguf_types": ("q5_0",)},
            "GGUF type 'q5_0' is unknown: choose from f32, f16, q8_0",
        ),
        ({"decoder": "both", "gguf_types": ("f16", "f16")}, "repeated"),
        ({"decoder": "mlx"}, "decoder 'mlx' is unknown"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(PocketVLMError, match=message):
        ExportOptions(**options)


@pytest.mark.parametrize(
    ("preset", "text", "message"),
    [
        ("tiny-qwen2", rope(LLAMA3), "its rope is scaled by .*'llama3'"),
        ("tiny-qwen2", rope({**YARN, "truncate": False}), "its rope is scaled by .*'yarn'"),
        ("tiny-qwen2", {"head_dim": 32}, "its heads make 128 of a hidden size of 64"),
        ("tiny-llama", {"hidden_act": "gelu"}, "hidden_act is gelu, llama.cpp has silu"),
    ],
)
def test_decoders_that_llama_cpp_cannot_run(make_tiny, preset, text, message):
    checkpoint = open_checkpoint(str(make_tiny(PRESETS[preset].but(text=text))))
    with pytest.raises(PocketVLMError, match=message):
        make_plan(checkpoint, ANY)
    make_plan(checkpoint, ExportOptions())


def test_a_sliding_window_is_the_longest_sequence(make_tiny):
    checkpoint = open_checkpoint(
        str(make_tiny(PRESETS["tiny-mistral"].but(text={"sliding_window": 100})))
    )
    assert make_plan(checkpoint, ANY).context == 100
    assert make_plan(checkpoint, ExportOptions()).context == 256


def test_the_plan_counts_the_files(tiny_checkpoint):
    plan = make_plan(
        open_checkpoint(str(tiny_checkpoint)), dataclasses.replace(ANY, gguf_types=("q4_0", "q8_0"))
    )
    assert plan.extra == {"gguf/decoder-f32.gguf"}
    assert set(plan.to_dict()["files"]) == {
        "onnx/vision_encoder.onnx",
        "gguf/decoder-q4_0.gguf",
        "gguf/decoder-q8_0.gguf",
    }
    assert plan.disk_bytes() > plan.to_dict()["bytes"] > plan.sizes()["gguf/decoder-q8_0.gguf"]


LOGITS = np.eye(16, 5, dtype=np.float32) * 10
PICKED = [int(row.argmax()) for row in LOGITS]
REFERENCE = DecoderReference(np.arange(3), PICKED, LOGITS, LOGITS)


@pytest.mark.parametrize(
    ("kind", "changed", "passes"),
    [
        ("f32", {}, True),
        ("f32", {"max_abs": 2e-3}, False),
        ("f32", {"max_abs": float("nan")}, False),
        ("f32", {"greedy_equal": 15}, False),
        ("f16", {"max_abs": 1.0}, True),
        ("f16", {"greedy_equal": 1}, False),
        ("f16", {"cosine": 0.99}, False),
        ("q8_0", {"greedy_equal": 0, "cosine": 0.991}, True),
        ("q8_0", {"cosine": float("nan")}, False),
        ("q4_0", {"cosine": 0.4}, False),
    ],
)
def test_what_the_gate_lets_pass(kind, changed, passes):
    figures = {
        "max_abs": 1e-4,
        "max_reference": 10.0,
        "cosine": 1.0,
        "greedy_tokens": 16,
        "greedy_equal": 16,
    }
    other = np.roll(LOGITS, 1, axis=1)  # prefers the next token everywhere
    assert gguf.judge(kind, figures | changed, other, REFERENCE) is passes


def test_float16_may_take_the_other_of_two_equal_tokens():
    logits = LOGITS.copy()
    logits[1, 2] = logits[1, 1] - 5e-3  # step 1: tokens 1 and 2 are near a tie
    reference = dataclasses.replace(REFERENCE, logits=logits, scores=logits)
    figures = {"cosine": 1.0, "greedy_tokens": 16, "greedy_equal": 1}
    other = logits.copy()
    other[1, 2] += 1
    assert gguf.judge("f16", figures, other, reference) is True
    assert gguf.judge("f16", figures, np.roll(other, 1, axis=1), reference) is False


def test_divergence_is_that_of_scipy():
    from scipy.special import softmax
    from scipy.stats import entropy

    a, b = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    expected = [
        entropy(p, q)
        for p, q in zip(softmax(a.astype(float), 1), softmax(b.astype(float), 1), strict=True)
    ]
    np.testing.assert_allclose(bounds.divergence(a, b), expected, rtol=1e-6)
