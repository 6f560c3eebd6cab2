"""What a GGUF file's header says, and what of it is refused before llama.cpp sees the file."""

import struct

import numpy as np
import pytest

from pocketvlm import PocketVLMError
from pocketvlm.decoders import gguf_file
from pocketvlm.decoders.gguf_header import TENSOR_TYPES, read_header

pytest.importorskip(
    "gguf", reason="the PyPI package gguf writes the files: pip install 'pocketvlm[export]'"
)

import gguf

from support.altered_gguf import MERGES, TOKENS, joined, parts
from support.tiny_gguf import (
    CONTEXT,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    VOCAB,
    TinyLlama,
    write_gguf,
)


@pytest.fixture
def path(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_the_dimensions_are_read(path):
    header = read_header(path)
    assert (header.architecture, header.layers, header.heads, header.kv_heads) == (
        "llama",
        LAYERS,
        HEADS,
        KV_HEADS,
    )
    assert (header.head_dim, header.hidden, header.vocab, header.context) == (
        HEAD_DIM,
        HIDDEN,
        VOCAB,
        CONTEXT,
    )
    header.check("file", hidden=HIDDEN, layers=LAYERS)
    with pytest.raises(PocketVLMError, match=f"vocab {VOCAB}, the manifest says 7"):
        header.check("file", vocab=7)


def test_the_head_width_follows_from_the_hidden_size_where_it_is_not_said(tmp_path):
    model = TinyLlama.random(hidden=HEADS * HEAD_DIM)
    left_out = dict.fromkeys(
        ["attention__key_length", "attention__value_length", "rope__dimension_count"]
    )
    write_gguf(tmp_path / "a.gguf", model, **left_out)
    assert read_header(tmp_path / "a.gguf").head_dim == HEAD_DIM


def test_block_sizes_equal_those_of_the_gguf_package():
    sizes = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in TENSOR_TYPES} == TENSOR_TYPES


def refused(path, reason):
    with pytest.raises(PocketVLMError, match=reason) as refusal:
        read_header(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("block_count", 0, "block_count is not a usable count"),
        ("block_count", 513, "513 layers"),
        ("attention__head_count", 3, "3 heads share 2 KV heads"),
        ("attention__head_count_kv", 0, "head_count_kv is not a usable count"),
        ("attention__value_length", 4, "keys and values differ"),
        ("rope__dimension_count", 7, "7 of 8 dimensions are rotated"),
        ("rope__dimension_count", 6, "6 of 8 dimensions are rotated"),
        ("rope__freq_base", float("nan"), "freq_base is not a usable number"),
        ("attention__layer_norm_rms_epsilon", -1.0, "epsilon is not a usable number"),
        ("attention__layer_norm_rms_epsilon", 1, "epsilon is not a usable number"),
        ("rope__scaling__type", "sideways", "rope.scaling.type is not one of"),
        ("context_length", None, "context_length is missing"),
        ("context_length", 4_000_001, "context_length is not a usable count"),
        ("vocab_size", VOCAB + 1, f"a vocabulary of {VOCAB}"),
        ("expert_count", 8, "expert_count is not one that exports write"),
        ("pooling_type", 99, "pooling_type is not one that exports write"),
    ],
)
def test_settings_that_llama_cpp_does_not_survive_are_refused(tmp_path, setting, value, reason):
    write_gguf(tmp_path / "a.gguf", **{setting: value})
    refused(tmp_path / "a.gguf", reason)


def test_an_architecture_says_how_tokens_are_numbered(path, tmp_path):
    assert read_header(path).positions == "contiguous"
    write_gguf(tmp_path / "a.gguf", architecture="qwen2vl")
    header = read_header(tmp_path / "a.gguf")
    assert header.positions == "mrope"
    header.check("file", context=CONTEXT, positions="mrope")
    with pytest.raises(PocketVLMError, match="positions mrope, the manifest says contiguous"):
        header.check("file", positions="contiguous")


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (None, r"sections are \[0, 0, 0, 0\] for 4 frequencies"),
        ([0, 0, 0, 0], r"\[0, 0, 0, 0\] for 4"),
        ([1, 1, 1, 0], r"\[1, 1, 1, 0\] for 4"),
        ([2, 1, 0, 1], r"\[2, 1, 0, 1\] for 4"),
        ([-4, 4, 4, 0], r"\[-4, 4, 4, 0\] for 4"),
        ([1 << 31 - 1, 0, 4, 0], "for 4"),
        ([1, 2, 1], "are not 4 whole numbers"),
        ([1, 2, 1, 0, 0], "are not 4 whole numbers"),
        ([1.0, 2.0, 1.0, 0.0], "are not 4 whole numbers"),
        (4, "are not 4 whole numbers"),
    ],
)
def test_sections_that_do_not_fill_a_head_are_refused(tmp_path, sections, reason):
    write_gguf(tmp_path / "a.gguf", architecture="qwen2vl", rope__dimension_sections=sections)
    refused(tmp_path / "a.gguf", reason)


def test_sections_are_for_mrope_alone_and_its_heads_fill_the_width(tmp_path):
    write_gguf(tmp_path / "a.gguf", rope__dimension_sections=[1, 2, 1, 0])
    refused(tmp_path / "a.gguf", r"llama\.rope\.dimension_sections are \[1, 2, 1, 0\]")
    write_gguf(tmp_path / "a.gguf", TinyLlama.random(hidden=40), architecture="qwen2vl")
    refused(tmp_path / "a.gguf", "4 heads in a width of 40")


def test_further_features_are_counted(tmp_path):
    write_gguf(tmp_path / "a.gguf", architecture="qwen3vl")
    header = read_header(tmp_path / "a.gguf")
    assert (header.extras, header.positions) == (1, "mrope")
    header.check("file", extras=1)
    with pytest.raises(PocketVLMError, match="extras 1, the manifest says 3"):
        header.check("file", extras=3)
    write_gguf(tmp_path / "a.gguf", TinyLlama.random(hidden=40), architecture="qwen3vl")
    assert read_header(tmp_path / "a.gguf").hidden == 40  # which its heads need not make
    write_gguf(tmp_path / "a.gguf", architecture="qwen3vl", n_deepstack_layers=None)
    assert read_header(tmp_path / "a.gguf").extras == 0
    for count, reason in (
        (2, "n_deepstack_layers are 2 of 2 layers"),
        (1.0, "is not a usable count"),
    ):
        write_gguf(tmp_path / "a.gguf", architecture="qwen3vl", n_deepstack_layers=count)
        refused(tmp_path / "a.gguf", reason)


def test_a_token_that_stands_twice_is_refused(tmp_path):
    write_gguf(tmp_path / "a.gguf", tokens=["same"] * 2 + [f"t{i}" for i in range(VOCAB - 2)])
    refused(tmp_path / "a.gguf", "is in its vocabulary twice")
    # llama.cpp calls an empty token by its place, which another token may be called
    write_gguf(tmp_path / "a.gguf", tokens=["", "[EMPTY_0]", *(f"t{i}" for i in range(VOCAB - 2))])
    refused(tmp_path / "a.gguf", "is in its vocabulary twice")


# llama.cpp reads texts of C, which a NUL ends.
NAMES = [
    b"general.alignment\0", b"general.alignment\0x", b"\0", b"tokenizer.ggml.bos_token_id\0",
    b"general.name\n", b"general.name\x1b[2J", b"general.n me", b"general.\xc3\xa4",
    b"general.\x7f",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["settings", "tensors"])
def test_names_that_are_not_plain_are_refused(path, name, place):
    file = parts(path.read_bytes())
    if place == "settings":
        file.settings.insert(1, [name, 4, 64])
    else:
        file.tensors[3][0] += name
    path.write_bytes(joined(file))
    refused(path, f"the name of a {place[:-1]} is not plain ASCII")


def test_a_tensor_that_is_there_twice_is_refused(path):
    file = parts(path.read_bytes())
    file.tensors[3][0] = file.tensors[2][0]
    path.write_bytes(joined(file))
    refused(path, "is in it twice")


@pytest.mark.parametrize(
    "tokens",
    [
        [b"\0", b"[EMPTY_0]"],
        [b"", b"[EMPTY_0]\0more"],
        [b"same", b"same\0"],
        [b"same\0one", b"same\0two"],
        [b"token7\0"],
    ],
)
def test_tokens_are_compared_as_llama_cpp_reads_them(path, tokens):
    file = parts(path.read_bytes())
    file.setting(TOKENS)[2][1][: len(tokens)] = tokens
    path.write_bytes(joined(file))
    refused(path, "is in its vocabulary twice")


@pytest.mark.parametrize("tokens", [[b"\0", b""], [b"one\0", b"two\0"], [b"\xff", b"\xfe\0\xff"]])
def test_other_tokens_with_a_nul_are_none_of_its_business(path, tokens):
    file = parts(path.read_bytes())
    file.setting(TOKENS)[2][1][: len(tokens)] = tokens
    path.write_bytes(joined(file))
    assert read_header(path).vocab == VOCAB


@pytest.mark.parametrize("merge", [b"", b"\0", b"\0a b"])
def test_merges_of_nothing_are_refused(path, merge):
    file = parts(path.read_bytes())
    file.setting(MERGES)[2] = (8, [b"a b", merge])
    path.write_bytes(joined(file))
    refused(path, "a merge is empty")


@pytest.mark.parametrize("name", ["tokens", "scores", "token_type", "merges"])
@pytest.mark.parametrize(("kind", "value"), [(4, 1), (8, b"text"), (9, (7, [True])), (9, (8, []))])
def test_lists_of_a_vocabulary_of_another_type_are_refused(path, name, kind, value):
    file = parts(path.read_bytes())
    full = f"tokenizer.ggml.{name}".encode()
    file.settings = [setting for setting in file.settings if setting[0] != full]
    file.settings.append([full, kind, value])
    path.write_bytes(joined(file))
    if name == "merges" and value == (8, []):
        assert read_header(path).vocab == VOCAB
    else:
        refused(path, "is not a sound GGUF file")


def test_texts_are_counted_over_all_lists(path, monkeypatch):
    """Empty ones take eight bytes of a file, and far more time."""
    monkeypatch.setattr(gguf_file, "MAX_ITEMS", VOCAB + 10)
    file = parts(path.read_bytes())
    file.settings += [[f"general.list{n}".encode(), 9, (8, [b""] * 5)] for n in range(2)]
    path.write_bytes(joined(file))
    refused(path, f"more than {VOCAB + 10} texts")  # with the merge there is one too many
    file.settings[-1][2] = (8, [b""] * 4)
    path.write_bytes(joined(file))
    assert read_header(path).vocab == VOCAB


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as GGUF"),
        (b"GG", "ends after 2 bytes"),
        (b"PK\3\4" + bytes(60), "first bytes are not GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "version is 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0), "tensors, at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63), "settings, at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "bytes in a text"),
        (b"GGUF" + struct.pack("<IQQQ3sI", 3, 0, 1, 3, b"a.b", 77), "unknown type 77"),
        (
            b"GGUF" + struct.pack("<IQQQ3sIIQ", 3, 0, 1, 3, b"a.b", 9, 4, 1 << 40),
            "items in a.b, at most",
        ),
        (b"GGUF" + struct.pack("<IQQQ3sIIQ", 3, 0, 1, 3, b"a.b", 9, 9, 2), "array of the type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "its architecture is not one of"),
    ],
)
def test_what_is_no_gguf_file_is_refused(tmp_path, content, reason):
    (tmp_path / "a.gguf").write_bytes(content)
    refused(tmp_path / "a.gguf", reason)


def test_other_files_are_not_opened_on_the_side(path):
    """A part of a split model names no further file, but llama.cpp would look for one beside it."""
    data = path.read_bytes()
    at = data.index(b"general.architecture") - 8
    setting = struct.pack("<Q11sIH", 11, b"split.count", 2, 2)
    count = struct.unpack("<Q", data[16:24])[0]
    path.write_bytes(data[:16] + struct.pack("<Q", count + 1) + data[24:at] + setting + data[at:])
    refused(path, "split.count is not one that exports write")


def test_tensors_beyond_the_file_or_out_of_place_are_refused(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    refused(path, "do not fit its")
    name = b"blk.0.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 16 + 4  # its offset, after two dimensions and the type
    path.write_bytes(data[:at] + struct.pack("<Q", 32) + data[at + 8 :])
    refused(path, "ffn_up.weight lies at 32")
    path.write_bytes(data[: at - 4] + struct.pack("<I", 99) + data[at:])
    refused(path, "has the type 99")


def test_a_vector_must_be_float32(tmp_path):
    """llama.cpp's norms read no other type, and say so by ending the process."""
    model = TinyLlama.random()
    model.tensors["output_norm.weight"] = model.tensors["output_norm.weight"].astype(np.float16)
    write_gguf(tmp_path / "a.gguf", model)
    refused(tmp_path / "a.gguf", "output_norm.weight .* has the type 1")


def test_no_truncation_is_taken_for_a_whole_file(path):
    data = path.read_bytes()
    for end in [*range(1, 200), *np.linspace(200, len(data) - 33, 150, dtype=int)]:
        path.write_bytes(data[:end])
        with pytest.raises(PocketVLMError):
            read_header(path)


def test_flipped_bits_raise_nothing_else(path):
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    end = len(data) - sum(t.nbytes for t in TinyLlama.random().tensors.values())
    for _ in range(600):
        damaged = data.copy()
        for at in rng.integers(0, end, size=rng.integers(1, 4)):
            damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            read_header(path)
        except PocketVLMError as refusal:
            assert "\n" not in str(refusal)  # noqa: PT017 - most, but not all, are refused
