"""GGUF files of decoders with M-RoPE positions: against llama.cpp's own converter, and what is
refused."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pocketvlm.errors import ArtifactError, CheckpointError
from pocketvlm_export.gguf import architecture
from support import tiny_tokenizers
from support.gguf_files import needs_llama_cpp, read_gguf
from support.qwen_decoders import open_file, write_file
from support.tiny_qwen import NAMES, tiny_qwen

CONVERTER = Path(__file__).parents[1] / "support" / "run_converter.py"


@pytest.fixture(scope="module", params=NAMES)
def qwen(request):
    return tiny_qwen(request.param)


@pytest.fixture(scope="module")
def file(qwen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_file(qwen, folder, folder / "tiny.gguf")
    return folder / "tiny.gguf"


def converter_source():
    """The folder with llama.cpp's converter; see ``test_gguf_files.py``."""
    stated = os.environ.get("POCKETVLM_LLAMA_CPP_SOURCE")
    source = Path(stated) if stated else Path.home() / ".cache" / "pocketvlm" / "llama.cpp"
    if not (source / "convert_hf_to_gguf.py").is_file():
        pytest.skip(f"llama.cpp's converter is not in {source}")
    return source


def test_the_file_says_how_frequencies_are_shared_out(file):
    _, fields = read_gguf(file)
    arch = fields["general.architecture"]
    extras = fields.get(f"{arch}.n_deepstack_layers")
    sections = fields[f"{arch}.rope.dimension_sections"]
    assert (arch, sections, extras) in (
        ("qwen2vl", [2, 3, 3, 0], None),
        ("qwen3vl", [4, 2, 2, 0], 3),
    )
    assert fields[f"{arch}.rope.dimension_count"] == 16


@needs_llama_cpp
def test_a_file_with_positions_of_another_kind_is_refused(file, qwen):
    """llama.cpp would read four numbers of each position, and be given none; or wider rows than it
    is given."""
    extras = qwen.spec.extras
    with pytest.raises(ArtifactError, match="positions mrope, the manifest says contiguous"):
        open_file(file, positions="contiguous", extras=extras)
    with pytest.raises(ArtifactError, match=f"extras {len(extras)}, the manifest says 1"):
        open_file(file, extras=("deepstack_0",))


@pytest.mark.parametrize(
    ("rope", "dimensions", "reason"),
    [
        ({"mrope_section": [2, 3, 2]}, {}, r"shares out 8 plain frequencies"),
        ({"mrope_section": [2, 6]}, {}, "shares out 8"),
        ({"mrope_section": [2, -1, 7]}, {}, "shares out 8"),
        ({"mrope_section": None}, {}, "shares out 8"),
        ({"mrope_interleaved": True}, {}, "shares out 8"),
        ({}, {"extras": ("deepstack_0",)}, "it reads further features deepstack_0"),
        ({"rope_type": "linear", "factor": 2.0}, {}, "shares out 8"),
        ({}, {"head_dim": 24}, "its heads make 96 of a hidden size of 64"),
        (
            {},
            {"positions": "contiguous"},
            "positions are contiguous, llama.cpp's qwen2vl has mrope",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(rope, dimensions, reason):
    qwen = tiny_qwen("qwen2_vl")
    config = copy.deepcopy(qwen.spec.config)
    config.rope_parameters = config.rope_parameters | rope
    spec = dataclasses.replace(qwen.spec, config=config, **dimensions)
    with pytest.raises(CheckpointError, match=reason) as refusal:
        architecture(spec)
    assert "--decoder onnx" in str(refusal.value)


@pytest.mark.parametrize(
    "rope",
    [
        {"mrope_interleaved": False},
        {"mrope_section": [4, 2, 1]},
        {"rope_type": "yarn", "factor": 2.0},
        {"mrope_section": [6, 1, 1]},  # frequency 4 is left over, which turns fast
    ],
)
def test_so_it_is_where_frequencies_take_turns(rope):
    qwen = tiny_qwen("qwen3_vl")
    architecture(qwen.spec)
    config = copy.deepcopy(qwen.spec.config)
    config.rope_parameters = config.rope_parameters | rope
    with pytest.raises(CheckpointError, match=r"cannot run in llama\.cpp"):
        architecture(dataclasses.replace(qwen.spec, config=config))


def test_features_behind_the_last_layer_are_refused():
    spec = tiny_qwen("qwen3_vl").spec
    with pytest.raises(CheckpointError, match="behind 4 of 4 layers"):
        architecture(dataclasses.replace(spec, extras=("a", "b", "c", "d")))


def test_contiguous_architectures_do_not_take_mrope_positions(qwen):
    config = SimpleNamespace(**qwen.spec.config.to_dict() | {"model_type": "qwen2"})
    spec = dataclasses.replace(qwen.spec, config=config, extras=())
    with pytest.raises(CheckpointError, match=r"positions are mrope, llama\.cpp's qwen2 has cont"):
        architecture(spec)


def test_the_file_equals_what_llama_cpps_converter_writes(qwen, tmp_path):
    """Tensors and whatever it says of the architecture."""
    source = converter_source()
    model = copy.deepcopy(qwen.model)
    model.resize_token_embeddings(600, mean_resizing=False)  # its tokenizer has more than 256
    spec = dataclasses.replace(qwen.spec, config=model.config.text_config, vocab=600)
    model.save_pretrained(tmp_path)
    tiny_tokenizers.save(tiny_tokenizers.byte_level("qwen2"), tmp_path)
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    jobs = json.dumps([[str(tmp_path), str(theirs), "f32", "qwen2"]])
    command = [sys.executable, str(CONVERTER), str(source), jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    write_file(dataclasses.replace(qwen, model=model, spec=spec), tmp_path, ours)
    (tensors, fields), (expected, stated) = read_gguf(ours), read_gguf(theirs)
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert tensors[name].tobytes() == values.tobytes(), name
    for key, value in stated.items():
        # The scaling's type is "none".
        if key.startswith(("qwen2vl.", "qwen3vl.")) and not key.endswith("rope.scaling.type"):
            assert fields[key] == pytest.approx(value), key
