"""Products of bytes on this CPU and on one that overflows."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pocketvlm import Artifact
from pocketvlm.artifact import metadata
from pocketvlm.ort import overflow
from pocketvlm.ort.sessions import open_session
from support.tiny_artifact import write_artifact


@pytest.fixture
def opened(tmp_path):
    """The options of a session, as ONNX Runtime has them."""
    write_artifact(tmp_path / "a")
    artifact = Artifact.open(tmp_path / "a")
    name = next(iter(artifact.manifest.decoder.graphs.values()))
    return lambda: open_session(artifact, name, metadata.DECODER).get_session_options()


def test_the_graph_that_is_asked(monkeypatch):
    graphs = []

    class Recorded(Cut):
        def __init__(self, graph, *_, **__):
            graphs.append(onnx.load_from_string(graph))

    monkeypatch.setattr(overflow.ort, "InferenceSession", Recorded)
    overflow.overflows.__wrapped__()
    sizes = {
        "a": (TensorProto.UINT8, [4, 64]),
        "b": (TensorProto.INT8, [64, 16]),
        "y": (TensorProto.INT32, [4, 16]),
    }
    a, b, y = (helper.make_tensor_value_info(name, *size) for name, size in sizes.items())
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "g", [a, b], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert graphs == [model]
    onnx.checker.check_model(model, full_check=True)


class Cut:
    """A session on a CPU that adds pairs of products in 16 bits."""

    def __init__(self, *_, **__):
        pass

    def run(self, _, feed):
        pairs = feed["a"].astype(int)[:, :, None] * feed["b"].astype(int)
        return [np.clip(pairs[:, 0::2] + pairs[:, 1::2], -32768, 32767).sum(axis=1)]


def test_where_they_overflow_weights_become_unsigned(opened, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(overflow.ort, "InferenceSession", Cut)
        assert overflow.overflows.__wrapped__()
    monkeypatch.setattr(overflow, "overflows", lambda: True)
    assert opened().get_session_config_entry("session.x64quantprecision") == "1"


def test_elsewhere_nothing_is_slowed_down(opened, monkeypatch):
    monkeypatch.setattr(overflow, "overflows", lambda: False)
    with pytest.raises(RuntimeError, match="does not have configuration"):
        opened().get_session_config_entry("session.x64quantprecision")
