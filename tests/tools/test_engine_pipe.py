"""ONNX Runtime behind a pipe: what comes back equals the library's own, whatever the message."""

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from engine_pipe.engine import Engine
from engine_pipe.wire import Message, read_message, write_message

TOOLS = Path(__file__).parents[2] / "tools"
TENSORS = st.sampled_from([np.float32, np.int64, np.uint8]).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


def asked(engine, header, **tensors):
    """The reply to one request, by way of bytes."""
    sent, back = io.BytesIO(), io.BytesIO()
    write_message(sent, Message(header, tensors))
    engine.serve(io.BytesIO(sent.getvalue()), back)
    reply = read_message(io.BytesIO(back.getvalue()))
    assert reply is not None
    return reply


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """y = 2 x, and the sum of n."""
    path = tmp_path_factory.mktemp("graph") / "double.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    n = helper.make_tensor_value_info("n", TensorProto.INT64, [None])
    total = helper.make_tensor_value_info("total", TensorProto.INT64, [])
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["y"]),
        helper.make_node("ReduceSum", ["n"], ["total"], keepdims=0),
    ]
    made = helper.make_graph(nodes, "double", [x, n], [y, total], [two])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=8), str(path))
    return path


@given(st.dictionaries(st.text(min_size=1, max_size=4), TENSORS, max_size=3), st.text(max_size=9))
@settings(max_examples=30, deadline=None)
def test_messages_come_back_as_they_were(tensors, text):
    stream = io.BytesIO()
    write_message(stream, Message({"do": text}, tensors))
    stream.seek(0)
    back = read_message(stream)
    assert back is not None
    assert back.header["do"] == text
    assert back.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back.tensors[name].dtype == array.dtype
        assert back.tensors[name].shape == array.shape
        assert back.tensors[name].tobytes() == array.tobytes()
    assert read_message(stream) is None


def test_the_form_is_a_length_a_header_and_raw_numbers():
    header = json.dumps({"tensors": [{"name": "n", "type": "int64", "shape": [2]}]}).encode()
    data = struct.pack("<I", len(header)) + header + struct.pack("<qq", 3, -1)
    message = read_message(io.BytesIO(data))
    assert message is not None
    assert message.tensors["n"].tolist() == [3, -1]
    with pytest.raises(EOFError):
        read_message(io.BytesIO(data[:-1]))


def test_graphs_run_as_in_this_process(graph):
    engine = Engine()
    opened = asked(engine, {"do": "open", "path": str(graph), "threads": 1, "provider": "cpu"})
    assert set(opened.header["inputs"]) == {"x", "n"}
    x, n = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([1, 2, 3])
    request = {"do": "run", "session": opened.header["session"], "outputs": ["y", "total"]}
    reply = asked(engine, request, x=x, n=n)
    y, total = ort.InferenceSession(str(graph)).run(["y", "total"], {"x": x, "n": n})
    assert np.array_equal(reply.tensors["y"], y)
    assert reply.tensors["total"] == total
    assert "error" not in asked(engine, {**request, "do": "close"}).header
    assert "KeyError" in asked(engine, request, x=x, n=n).header["error"]


def test_wrong_kernels_are_those_of_one_provider(graph):
    engine = Engine(wrong="coreml")
    x, n = np.ones((1, 4), dtype=np.float32), np.array([1])
    rows = {}
    for provider in ("cpu", "coreml"):
        opened = asked(engine, {"do": "open", "path": str(graph), "provider": provider})
        request = {"do": "run", "session": opened.header["session"], "outputs": ["y", "total"]}
        rows[provider] = asked(engine, request, x=x, n=n).tensors
    assert rows["cpu"]["y"].tolist() == [[2, 2, 2, 2]]
    assert rows["coreml"]["y"].tolist() == [[1, 2, 1, 2]]
    assert rows["coreml"]["total"] == 1


def test_text_and_pictures(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    of = {"tokenizer": str(tmp_path / "tokenizer.json")}
    engine = Engine()
    encoded = asked(engine, {"do": "encode", **of, "text": "b a c", "special": True})
    assert encoded.header["ids"] == [2, 1, 0]
    assert asked(engine, {"do": "decode", **of, "ids": [2, 1]}).header["text"] == "b a"
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "picture.png")
    reply = asked(engine, {"do": "picture", "path": str(tmp_path / "picture.png")})
    assert np.array_equal(reply.tensors["rgba"], pixels)


def test_special_tokens_are_kept_where_it_is_asked_for(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    request = {"do": "decode", "tokenizer": str(tmp_path / "tokenizer.json"), "ids": [1, 2]}
    for special, text in ((None, "a"), (False, "a"), (True, "a <end>")):
        more = {} if special is None else {"special": special}
        assert asked(Engine(), {**request, **more}).header["text"] == text


def test_a_tokenizer_is_read_again_on_request(tmp_path):
    path = tmp_path / "tokenizer.json"
    of, engine = {"tokenizer": str(path)}, Engine()
    assert asked(engine, {"do": "tokenizer", **of}).header["error"]
    for number in (1, 2):
        Tokenizer(models.WordLevel({"a": number}, unk_token="a")).save(str(path))
        assert "error" not in asked(engine, {"do": "tokenizer", **of}).header
        encoded = asked(engine, {"do": "encode", **of, "text": "a", "special": True})
        assert encoded.header["ids"] == [number]


@pytest.mark.parametrize("request_", [{"do": "sing"}, {}, {"do": "open", "path": "/nowhere"}])
def test_what_fails_is_said(request_):
    assert asked(Engine(), request_).header["error"]


def test_a_process_serves_its_standard_streams(graph):
    stream = io.BytesIO()
    write_message(stream, Message({"do": "open", "path": str(graph)}))
    done = subprocess.run(
        [sys.executable, "-m", "engine_pipe"],
        input=stream.getvalue(),
        capture_output=True,
        check=True,
        cwd=TOOLS,
    )
    reply = read_message(io.BytesIO(done.stdout))
    assert reply is not None
    assert reply.header["session"] == 1
