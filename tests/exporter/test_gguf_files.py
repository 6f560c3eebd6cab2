"""GGUF files against llama.cpp's own converter, and what llama.cpp makes of their vocabulary."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from make_checkpoint import PRESETS
from pocketvlm import PocketVLMError
from pocketvlm.decoders.llama_cpp import library
from pocketvlm_export.checkpoint import chat_template
from pocketvlm_export.gguf import quantize_gguf, write_gguf
from pocketvlm_export.gguf.tensors import interleave_halves
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.packaging import eos_token_ids
from pocketvlm_export.packaging.sidecars import write_tokenizer
from support import tiny_tokenizers
from support.gguf_files import needs_llama_cpp, read_gguf, tensor_types

SOURCE = Path(
    os.environ.get("POCKETVLM_LLAMA_CPP_SOURCE")
    or Path.home() / ".cache" / "pocketvlm" / "llama.cpp"
)
CONVERTER = Path(__file__).parents[1] / "support" / "run_converter.py"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LLAMA3 |= {"original_max_position_embeddings": 64}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
# preset, what of the decoder is other than there, the checkpoint's options, the file's type, the
# kind of tokenizer
CASES = {
    "llama": ("tiny-llama", {}, {}, "f32", None),
    "llama-f16": ("tiny-llama", {}, {"dtype": "bfloat16"}, "f16", None),
    "llama-biases": ("tiny-llama", {"attention_bias": True, "mlp_bias": True}, {}, "f32", None),
    "llama-llama3-rope": ("tiny-llama", {"rope_parameters": LLAMA3}, {}, "f32", None),
    "llama-yarn": ("tiny-llama", {"rope_parameters": YARN}, {}, "f32", None),
    "llama-pieces": ("tiny-llama", {}, {}, "f32", "pieces"),
    "llama-linear": ("tiny-llama", {"rope_parameters": LINEAR}, {}, "f32", "smollm"),
    "mistral": ("tiny-mistral", {}, {"shard_bytes": 100_000}, "f32", None),
    "qwen2": ("tiny-qwen2", {}, {}, "f32", None),
    "qwen3": ("tiny-qwen3", {}, {"dtype": "bfloat16"}, "f32", None),
    "qwen2-own-head": (
        "tiny-qwen2",
        {"tie_word_embeddings": False, "rope_parameters": YARN},
        {},
        "f16",
        "qwen2",
    ),
}
WIDE = {"hidden_size": 256, "intermediate_size": 512}
# Ours alone: where the file comes from and what else llama.cpp can be told of these decoders.
OURS = {"vocab_size", "key_length", "value_length", "dimension_count", "add_space_prefix"}
# The converter's alone: names it guesses, and scores it has no values for without SentencePiece's
# own file.
THEIRS = {
    "general.name",
    "general.size_label",
    "general.finetune",
    "general.basename",
    "general.version",
}


@pytest.fixture(scope="module")
def cases(make_tiny, tmp_path_factory):
    """{case: (checkpoint, folder with what was written of it)}."""
    made = {}
    for name, (preset, text, options, _, tokenizer) in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        source = make_tiny(PRESETS[preset].but(text=text), **options)
        if tokenizer:
            core = (
                tiny_tokenizers.sentence_pieces()
                if tokenizer == "pieces"
                else tiny_tokenizers.byte_level(tokenizer)
            )
            tiny_tokenizers.save(core, source)
        made[name] = (source, folder)
    return made


@pytest.fixture(scope="module")
def converted(cases):
    """What llama.cpp's converter makes of each case's decoder, as a checkpoint of its own."""
    if not (SOURCE / "convert_hf_to_gguf.py").is_file():
        pytest.skip(
            f"llama.cpp's converter is not in {SOURCE}: unpack llama-cpp-python's sdist and set "
            "POCKETVLM_LLAMA_CPP_SOURCE to its vendor/llama.cpp"
        )
    jobs = []
    for name, (source, folder) in cases.items():
        kind, tokenizer = CASES[name][3:]
        decoder_alone(source, folder / "alone")
        jobs.append(
            [str(folder / "alone"), str(folder / "theirs.gguf"), kind, tokenizer or "gpt-2"]
        )
    done = subprocess.run(
        [sys.executable, str(CONVERTER), str(SOURCE), json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: read_gguf(folder / "theirs.gguf") for name, (_, folder) in cases.items()}


def decoder_alone(source, folder):
    """Write the language model of a LLaVA checkpoint as a text-only checkpoint."""
    shutil.copytree(
        source,
        folder,
        ignore=shutil.ignore_patterns("*.safetensors", "*.index.json", "p*processor*"),
    )
    config = json.loads((source / "config.json").read_text())["text_config"]
    name = config["model_type"].capitalize()
    (folder / "config.json").write_text(
        json.dumps(config | {"architectures": [f"{name}ForCausalLM"]})
    )
    weights = {
        key: value
        for file in source.glob("*.safetensors")
        for key, value in load_file(file).items()
    }
    prefix = "language_model."
    decoder = {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }
    save_file(decoder, folder / "model.safetensors", metadata={"format": "pt"})


def write(source, folder, kind="f32", name="ours.gguf"):
    checkpoint = open_checkpoint(str(source))
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    template = chat_template(source)
    write_tokenizer(source, texts, template)
    (texts / "chat_template.jinja").write_text(template)
    shutil.copy(source / "config.json", texts)
    write_gguf(checkpoint, texts, folder / name, kind, eos_token_ids(checkpoint)[0])
    return folder / name


@pytest.mark.parametrize("name", CASES)
def test_tensors_and_metadata_equal_those_of_llama_cpps_converter(cases, converted, name):
    source, folder = cases[name]
    ours, fields = read_gguf(write(source, folder, CASES[name][3]))
    theirs, expected = converted[name]
    assert ours.keys() == theirs.keys()
    for tensor, values in theirs.items():
        assert (ours[tensor].dtype, ours[tensor].shape) == (values.dtype, values.shape), tensor
        if (
            tensor == "rope_freqs.weight"
        ):  # transformers' own frequencies, which the converter computes again
            np.testing.assert_allclose(ours[tensor], values, rtol=1e-6)
        else:
            assert ours[tensor].tobytes() == values.tobytes(), tensor
    for key in THEIRS:
        expected.pop(key, None)
    if CASES[name][4] == "pieces":
        # The converter leaves scores out where it has no tokenizer.model, and ids that the
        # tokenizer does not fill.
        assert set(expected.pop("tokenizer.ggml.scores")) == {-1000.0}
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
            fields[key] = fields[key][: len(expected[key])]
    for key, value in expected.items():
        assert (
            fields[key] == pytest.approx(value)
            if isinstance(value, float)
            else fields[key] == value
        ), key
    extra = {key for key in fields.keys() - expected.keys() if key.rpartition(".")[2] not in OURS}
    assert extra <= {"general.name", "tokenizer.ggml.scores"}


TEXTS = [
    "what is in the picture?",
    "  Two  spaces, 1234567; don't\n\n\tWE'VE ",
    "naïve café, 中文, 🙂🚀",
    "a<box>b",
    "",
]


@needs_llama_cpp
@pytest.mark.parametrize("kind", [*tiny_tokenizers.BYTE_LEVEL, "pieces"])
def test_llama_cpp_tokenizes_as_the_checkpoint_does(make_tiny, tmp_path, kind):
    core = (
        tiny_tokenizers.sentence_pieces() if kind == "pieces" else tiny_tokenizers.byte_level(kind)
    )
    source = make_tiny()
    tiny_tokenizers.save(core, source)
    path = write(source, tmp_path)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    for text in TEXTS:
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenize(path, text) == expected, text


def tokenize(path, text):
    lib = library()
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), parameters)
    try:
        ids = (ctypes.c_int32 * 256)()
        raw = text.encode()
        count = lib.llama_tokenize(
            lib.llama_model_get_vocab(model), raw, len(raw), ids, 256, False, True
        )
        return list(ids[:count])
    finally:
        lib.llama_model_free(model)


def test_rows_of_queries_and_keys_are_reordered_so_that_rotations_agree():
    """Turning halves apart before equals turning neighbours after."""
    heads, width, angle = 2, 8, np.linspace(0.1, 1.2, 4)
    x = np.random.default_rng(0).normal(size=heads * width)
    half = x.reshape(heads, 2, 4)
    turned = np.stack(
        [
            half[:, 0] * np.cos(angle) - half[:, 1] * np.sin(angle),
            half[:, 1] * np.cos(angle) + half[:, 0] * np.sin(angle),
        ],
        axis=1,
    ).reshape(-1)
    pairs = interleave_halves(torch.from_numpy(x), heads).numpy().reshape(heads, 4, 2)
    neighbours = np.stack(
        [
            pairs[..., 0] * np.cos(angle) - pairs[..., 1] * np.sin(angle),
            pairs[..., 1] * np.cos(angle) + pairs[..., 0] * np.sin(angle),
        ],
        axis=-1,
    ).reshape(-1)
    np.testing.assert_allclose(
        interleave_halves(torch.from_numpy(turned), heads).numpy(), neighbours
    )


@pytest.mark.parametrize("stored_head", ["equal", "other"])
def test_a_tied_head_is_left_out_where_it_is_the_embedding(make_tiny, tmp_path, stored_head):
    source = make_tiny("tiny-qwen2")
    weights = load_file(source / "model.safetensors")
    table = weights["language_model.model.embed_tokens.weight"]
    weights["language_model.lm_head.weight"] = (
        table.clone() if stored_head == "equal" else 2 * table
    )
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    tensors, _ = read_gguf(write(source, tmp_path))
    assert ("output.weight" in tensors) == (stored_head == "other")


def test_a_tied_table_under_the_heads_name_is_the_embedding(make_tiny, tmp_path):
    source = make_tiny("tiny-qwen2")
    weights = load_file(source / "model.safetensors")
    table = weights.pop("language_model.model.embed_tokens.weight")
    save_file(
        weights | {"language_model.lm_head.weight": table},
        source / "model.safetensors",
        metadata={"format": "pt"},
    )
    tensors, _ = read_gguf(write(source, tmp_path))
    assert "output.weight" not in tensors
    np.testing.assert_array_equal(tensors["token_embd.weight"], table.numpy())


def test_a_weight_without_a_place_is_refused(make_tiny, tmp_path):
    source = make_tiny()
    weights = load_file(source / "model.safetensors")
    weights["language_model.model.layers.0.self_attn.sinks"] = weights[
        "language_model.model.norm.weight"
    ].clone()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        PocketVLMError,
        match=r"layers\.0\.self_attn\.sinks that llama\.cpp's llama has no place for",
    ):
        write(source, tmp_path)


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["gpt-2", "pieces"])
def test_tokens_without_a_row_of_the_embedding_are_left_out(make_tiny, tmp_path, kind):
    core = (
        tiny_tokenizers.sentence_pieces() if kind == "pieces" else tiny_tokenizers.byte_level(kind)
    )
    core.add_tokens([f"<extra {i}>" for i in range(200)])
    source = make_tiny()
    tiny_tokenizers.save(core, source)
    path = write(source, tmp_path)
    assert len(read_gguf(path)[1]["tokenizer.ggml.tokens"]) == 512 < core.get_vocab_size()
    text = "what is in the picture?"
    assert tokenize(path, text) == core.encode(text, add_special_tokens=False).ids


def test_a_tokenizer_of_another_kind_is_refused(make_tiny, tmp_path):
    source = make_tiny()
    tiny_tokenizers.save(
        Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")), source
    )
    with pytest.raises(PocketVLMError, match="of kind WordLevel"):
        write(source, tmp_path)


# Widths that 256 divides, so that each type is what it says; and what llama.cpp mixes in for
# accuracy.
TYPES = {
    "q8_0": {"F32", "Q8_0"},
    "q4_0": {"F32", "Q4_0", "Q6_K"},
    "q4_k_m": {"F32", "Q4_K", "Q6_K"},
}


@needs_llama_cpp
def test_quantizing_keeps_the_metadata_and_the_values_nearly(make_tiny, tmp_path):
    source = write(make_tiny(PRESETS["tiny-llama"].but(text=WIDE)), tmp_path)
    tensors, fields = read_gguf(source)
    parts = []
    for kind, types in TYPES.items():
        target = tmp_path / f"{kind}.gguf"
        quantize_gguf(source, target, kind, 1, parts.append)
        assert tensor_types(target) == types
        _, quantized = read_gguf(target)
        changed = {key for key in fields if quantized[key] != fields[key]}
        assert changed == {"general.file_type"}
        for tensor in gguf.GGUFReader(target).tensors:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            exact = tensors[tensor.name]
            error = np.linalg.norm(values - exact) / np.linalg.norm(exact)
            assert error < (0.01 if kind == "q8_0" else 0.12), (kind, tensor.name)
    assert parts[-1] == 1.0


@needs_llama_cpp
def test_quantizing_what_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"no GGUF")
    with pytest.raises(PocketVLMError, match=r"llama\.cpp could not write b\.gguf"):
        quantize_gguf(tmp_path / "a.gguf", tmp_path / "b.gguf", "q8_0", 1)
