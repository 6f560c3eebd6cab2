"""Graphs that compute something else than they declare: one refusal that names it, whatever it
is."""

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvlm import VLM, Sampling
from pocketvlm.errors import ArtifactError, EngineError
from pocketvlm.ort.outputs import check_rising
from support.tiny_artifact import read_manifest, write_artifact, write_manifest

PICTURE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
GRAPHS = {
    "vision": "onnx/vision_encoder.onnx",
    "embed": "onnx/embed_tokens.onnx",
    "decoder": "onnx/decoder_model_merged.onnx",
}
OUTPUTS = {
    "image_features": "vision",
    "kept_indices": "vision",
    "kept_scores": "vision",
    "inputs_embeds": "embed",
    "logits": "decoder",
    "present.0.key": "decoder",
    "present.1.value": "decoder",
}


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


def sliced(name, axis, end):
    """Part of an axis. Where it ends is computed, so that nothing can be inferred."""
    return [
        node("Cast", ["was"], "whole", to=TensorProto.INT64),
        node("ReduceMax", ["whole"], "largest", keepdims=0),
        node("Mul", ["largest", "nought"], "hidden"),
        node("Add", ["end", "hidden"], "ends"),
        node("Slice", ["was", "nought_1", "ends", "axis"], name),
    ], {"nought": np.array(0), "nought_1": np.array([0]), "end": np.array([end]),
        "axis": np.array([axis])}  # fmt: skip


def doubled(name, axis):
    return [node("Concat", ["was", "was"], name, axis=axis)], {}


def reshaped(name, sizes):
    return [node("Reshape", ["was", "sizes"], name)], {"sizes": np.array(sizes)}


def times(name, factor):
    return [node("Mul", ["was", "factor"], name)], {"factor": np.array(factor, np.float32)}


SHAPES = {
    "a row less": lambda name: sliced(name, 1, -1),
    "no rows": lambda name: sliced(name, 1, 0),
    "twice as many rows": lambda name: doubled(name, 1),
    "a column less": lambda name: sliced(name, -1, -1),
    "twice as wide": lambda name: doubled(name, -1),
    "a batch of two": lambda name: doubled(name, 0),
    "no batch": lambda name: sliced(name, 0, 0),
    "one axis": lambda name: reshaped(name, [-1]),
    "five axes": lambda name: reshaped(name, [1, 1, 1, 1, -1]),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound") / "a"
    write_artifact(root, budgets=(6,))
    return root


@pytest.fixture
def root(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "a")
    return tmp_path / "a"


def alter(root, name, change):
    """Put nodes before an output of a graph, which computed "was"; its declaration stays."""
    path = root / GRAPHS[OUTPUTS[name]]
    model = onnx.load(path)
    for each in model.graph.node:
        each.output[:] = ["was" if output == name else output for output in each.output]
        each.input[:] = ["was" if source == name else source for source in each.input]
    nodes, constants = change(name)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    onnx.save(model, path)
    write_manifest(root, read_manifest(root))


def answer(root):
    return VLM.load(root, check="sizes").generate(
        "what is it?", [PICTURE], sampling=Sampling(max_new_tokens=3)
    )


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_another_shape_are_refused(root, sound, name):
    """As the graph is opened where ONNX Runtime infers it, else as it is run."""
    while_running = 0
    for change in SHAPES.values():
        shutil.copyfile(sound / GRAPHS[OUTPUTS[name]], root / GRAPHS[OUTPUTS[name]])
        alter(root, name, change)
        with pytest.raises((EngineError, ArtifactError)) as refused:
            answer(root)
        assert len(str(refused.value).splitlines()) == 1
        assert OUTPUTS[name] in str(refused.value) or name in str(refused.value)
        while_running += f"gave {name} of shape" in refused.value.found
    assert while_running >= 3


@pytest.mark.parametrize("name", ["image_features", "kept_scores", "logits"])
@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(root, name, factor):
    alter(root, name, lambda name: times(name, factor))
    with pytest.raises(EngineError, match=f"{name}.* not finite"):
        answer(root)


# From 6 numbers of 16 patches; each has the shape that it should have.
NUMBERS = {
    "none of the picture": lambda numbers: numbers + 16,
    "below nought": lambda numbers: numbers - 16,
    "far out": lambda numbers: numbers + (1 << 40),
    "one twice": lambda numbers: np.repeat(numbers[::2], 2),
    "the other way round": lambda numbers: numbers[::-1],
}


@pytest.mark.parametrize("change", NUMBERS)
def test_numbers_that_are_no_rising_patches_are_refused(root, change):
    sound = answer(root).kept_indices[0]
    numbers = np.ascontiguousarray(NUMBERS[change](np.array(sound)))[None]

    def exchanged(name):
        nodes = [node("Mul", ["was", "none"], "nothing"), node("Add", ["nothing", "new"], name)]
        return nodes, {"none": np.array(0), "new": numbers}

    alter(root, "kept_indices", exchanged)
    with pytest.raises(EngineError, match=r"kept_indices of .* ascending numbers of 0\.\.15"):
        answer(root)


def test_rising_numbers_may_be_none_or_all():
    check_rising("graph", "output", np.zeros((2, 0), np.int64), 5)
    check_rising("graph", "output", np.arange(10).reshape(2, 5) % 5, 5)


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_another_type_are_refused(root, name):
    path = root / GRAPHS[OUTPUTS[name]]
    other = TensorProto.INT32 if name == "kept_indices" else TensorProto.DOUBLE
    alter(root, name, lambda name: ([node("Cast", ["was"], name, to=other)], {}))
    model = onnx.load(path)
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.elem_type = other
    onnx.save(model, path)
    write_manifest(root, read_manifest(root))
    with pytest.raises(ArtifactError, match=rf"has {name} of type tensor\((int32|double)\)"):
        answer(root)


def test_names_that_are_no_text_are_refused(root):
    """Python cannot read them, and says so while the tensors are looked at."""
    path = root / GRAPHS["decoder"]
    content = path.read_bytes()
    assert content.count(b"past_key_values.1.key") > 1
    path.write_bytes(content.replace(b"past_key_values.1.key", b"past_key_values.1.\xff\xff\xff"))
    write_manifest(root, read_manifest(root))
    with pytest.raises((EngineError, ArtifactError)) as refused:
        answer(root)
    assert len(str(refused.value).splitlines()) == 1
    assert "decoder_model_merged.onnx" in str(refused.value)
