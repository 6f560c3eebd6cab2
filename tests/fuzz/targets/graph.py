"""ONNX graphs with weights beside them, behind sound checksums: opened, and run where they open."""

import copy
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fuzz.base import OUTSIDE, Target, link_all, put
from fuzz.byte_changes import NUMBERS, damaged
from pocketvlm import Artifact
from pocketvlm.vision.encoder import VisionEncoder
from support.tiny_artifact import read_manifest, write_artifact, write_manifest

GRAPH = "onnx/vision_encoder.onnx"
DATA = "vision_encoder.onnx_data"
_OPERATORS = (
    "Loop", "If", "Scan", "RandomNormal", "Expand", "Tile", "ConstantOfShape", "Range", "Einsum",
    "Identity", "Gather", "MatMul", "Conv", "Resize", "TopK", "Pad", "Concat", "Reshape",
    "Softmax", "LayerNormalization", "GroupQueryAttention", "MatMulNBits", "OneHot", "Slice",
    "Transpose", "NoSuchThing",
)  # fmt: skip


class Fuzz(Target):
    """See the module."""

    threat = "a graph that names weights outside, never ends, fills memory, or crashes ONNX Runtime"
    memory_mb, headroom_mb = 2000, 0  # a graph's memory is not bounded, see docs/security.md

    def prepare(self, folder: Path) -> None:
        self.root = folder / "artifact"
        write_artifact(self.root)
        model = onnx.load(self.root / GRAPH)
        onnx.save(
            model, self.root / GRAPH, save_as_external_data=True, location=DATA, size_threshold=64
        )
        write_manifest(self.root, read_manifest(self.root))
        self.model = onnx.load(self.root / GRAPH, load_external_data=False)
        self.content = (self.root / GRAPH).read_bytes()
        self.weights = (self.root / "onnx" / DATA).read_bytes()
        self.use(self.root)

    def write(self, random: Random, box: Path) -> None:
        link_all(self.root, box)
        if random.random() < 0.65:
            content = altered(random, self.model).SerializeToString()
        else:
            content = damaged(random, self.content)
        put(box / GRAPH, content)
        if random.random() < 0.15:
            put(box / "onnx" / DATA, damaged(random, self.weights))
        write_manifest_anew(box, self.root)

    def use(self, box: Path) -> None:
        run_vision(Artifact.open(box))


def write_manifest_anew(box: Path, root: Path) -> None:
    """State the checksums of what lies in the box now."""
    put(box / "pocketvlm.json", b"")
    write_manifest(box, read_manifest(root))


def run_vision(artifact: Artifact) -> None:
    """Open the vision graph of an artifact and have it see something."""
    encoder = VisionEncoder.open(artifact)
    size = artifact.manifest.vision.image_size or (28, 28)
    encoder.encode(np.zeros((1, 3, *size), np.float32))


def altered(random: Random, model: Any) -> Any:
    """A graph with one to three changes of what is in it."""
    model = copy.deepcopy(model)
    for _ in range(random.choice((1, 1, 2, 3))):
        random.choice(_CHANGES)(random, model.graph, model)
    return model


def _number(random: Random) -> int:
    return (
        random.choice((*NUMBERS, -1, -2, -(2**63))) % (1 << 64) - (1 << 63)
        if random.random() < 0.3
        else random.choice((-1, 0, 1, 2, 3, 9, 1000, 2**31, 2**40, 2**62))
    )


def _external(random: Random, graph: Any, _model: Any) -> None:
    outside = [each for each in graph.initializer if each.external_data]
    if not outside:
        return
    tensor = random.choice(outside)
    entry = random.choice(tensor.external_data)
    if entry.key == "location":
        entry.value = random.choice(
            (
                *OUTSIDE,
                "",
                DATA.upper(),
                "../onnx/" + DATA,
                "vision_encoder.onnx",
                "*/_ORT_MEM_ADDR_/*",
                "../pocketvlm.json",
                "link.json",
            )
        )
    else:
        entry.value = random.choice(
            (str(_number(random)), "", "a", "1e9", "0x10", "-1", "99999999999999999999")
        )


def _sizes(random: Random, graph: Any, _model: Any) -> None:
    if not graph.initializer:
        return
    tensor = random.choice(graph.initializer)
    if tensor.dims and random.random() < 0.7:
        tensor.dims[random.randrange(len(tensor.dims))] = _number(random)
    elif random.random() < 0.5:
        tensor.dims.append(_number(random))
    else:
        tensor.data_type = random.choice((0, 1, 2, 6, 7, 8, 9, 10, 16, 21, 99))


def _operator(random: Random, graph: Any, _model: Any) -> None:
    node = random.choice(graph.node)
    node.op_type = random.choice(_OPERATORS)
    node.domain = random.choice(("", "", "com.microsoft", "ai.onnx.ml", "evil"))


def _wire(random: Random, graph: Any, _model: Any) -> None:
    node, names = (
        random.choice(graph.node),
        [name for each in graph.node for name in (*each.input, *each.output)],
    )
    wires = random.choice((node.input, node.output))
    if wires and random.random() < 0.8:
        wires[random.randrange(len(wires))] = random.choice((*names, "", "a\0b", "x" * 999))
    else:
        wires.append(random.choice(names))


def _attribute(random: Random, graph: Any, _model: Any) -> None:
    node = random.choice(graph.node)
    for attribute in node.attribute:
        if attribute.ints and random.random() < 0.6:
            attribute.ints[random.randrange(len(attribute.ints))] = _number(random)
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = _number(random)
    if not node.attribute or random.random() < 0.2:
        value = random.choice((_number(random), "a", 1.5, [_number(random)] * 3))
        node.attribute.append(
            helper.make_attribute(
                random.choice(("axis", "perm", "to", "equation", "pads", "body")), value
            )
        )


def _shape(random: Random, graph: Any, _model: Any) -> None:
    value = random.choice((*graph.input, *graph.output))
    sizes = value.type.tensor_type.shape.dim
    if sizes and random.random() < 0.7:
        random.choice(sizes).dim_value = _number(random)
    elif random.random() < 0.5:
        value.type.tensor_type.elem_type = random.choice((0, 1, 6, 7, 8, 10, 99))
    else:
        value.name = random.choice(("", "a", "pixel_values", "\0"))


def _node(random: Random, graph: Any, _model: Any) -> None:
    """A node that makes something large of constants, or of what the graph is given."""
    count = random.choice((2, 1000, 2**20, 2**31, 2**40))
    values = [count] * random.choice((1, 2, 3))
    graph.initializer.append(
        helper.make_tensor("extra_sizes", TensorProto.INT64, [len(values)], values)
    )
    op = random.choice(("ConstantOfShape", "Expand", "Tile", "Range", "RandomUniformLike"))
    source = random.choice(("extra_sizes", graph.input[0].name, graph.node[0].output[0]))
    inputs = {
        "ConstantOfShape": ["extra_sizes"],
        "Range": ["extra_sizes"] * 3,
        "RandomUniformLike": [source],
    }.get(op, [source, "extra_sizes"])
    graph.node.insert(random.choice((0, len(graph.node))), helper.make_node(op, inputs, ["extra"]))
    if random.random() < 0.4:
        graph.output.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, None))


def _more(random: Random, graph: Any, model: Any) -> None:
    kind = random.randrange(5)
    if kind == 0:
        model.metadata_props.add(
            key=random.choice(("a", "session.use_env_allocators", "pocketvlm.graph")),
            value="x" * random.choice((1, 99999)),
        )
    elif kind == 1 and model.opset_import:
        model.opset_import[0].version = _number(random)
    elif kind == 2:
        graph.node.extend(copy.deepcopy(list(graph.node)))
    elif kind == 3:
        model.functions.add(name="f", domain="evil")
    elif graph.initializer:
        tensor = random.choice(graph.initializer)
        tensor.raw_data = tensor.raw_data[: random.randrange(9)]
        tensor.data_location = random.choice((0, 1))


_CHANGES = (
    _external,
    _external,
    _external,
    _sizes,
    _operator,
    _wire,
    _attribute,
    _shape,
    _node,
    _more,
)
