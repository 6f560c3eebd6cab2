"""Knows which graphs are opened at all: made of operators that exports write, so that each node
runs once.

A graph is somebody else's program. Without loops, branches, functions and generators each of its
nodes runs once, so it ends. What a node may allocate while it runs follows from sizes that only the
run knows: that is ONNX Runtime's to refuse, and the operating system's to bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from pocketvlm.errors import ArtifactError
from pocketvlm.ort.graph_files import GraphFile, Node, elements, read_graph_file

# ONNX's own operators from tensors to tensors, the same on every run.
_ELEMENTWISE: Final = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual
    Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
_OTHER: Final = """
    ArgMax ArgMin Attention AveragePool BatchNormalization CastLike Compress Concat Constant
    ConstantOfShape Conv ConvInteger ConvTranspose CumSum DepthToSpace DequantizeLinear
    DynamicQuantizeLinear Einsum Expand EyeLike Flatten Gather GatherElements GatherND Gemm
    GlobalAveragePool GlobalMaxPool GridSample GroupNormalization Hardmax InstanceNormalization LRN
    LayerNormalization LogSoftmax LpNormalization MatMul MatMulInteger MaxPool
    MeanVarianceNormalization NonZero OneHot Pad QLinearConv QLinearMatMul QuantizeLinear
    RMSNormalization Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize ReverseSequence RoiAlign
    RotaryEmbedding ScatterElements ScatterND Shape SimplifiedLayerNormalization Size Slice Softmax
    SpaceToDepth Split Squeeze TensorScatter Tile TopK Transpose Trilu Unique Unsqueeze
"""
# ONNX Runtime's own, as exports write them.
_MICROSOFT: Final = """
    GatherBlockQuantized GroupQueryAttention MatMulNBits MultiHeadAttention RotaryEmbedding
    SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
_ALLOWED: Final = {
    "": frozenset((_ELEMENTWISE + _OTHER).split()),
    "com.microsoft": frozenset(_MICROSOFT.split()),
}
# Gives as many values as its first input, in the same sizes.
_ALIKE_NAMES: Final = """
    Cast CumSum DequantizeLinear Hardmax Identity LayerNormalization LogSoftmax LpNormalization
    QuantizeLinear RMSNormalization ScatterElements ScatterND Softmax Trilu
"""
# Gives no more values than its largest input has, in other sizes.
_NO_LARGER_NAMES: Final = """
    ArgMax ArgMin Flatten GatherElements ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Shape Size Slice Split Squeeze
    Transpose Unsqueeze
"""
_ALIKE, _NO_LARGER = frozenset(_ALIKE_NAMES.split()), frozenset(_NO_LARGER_NAMES.split())
_BROADCAST: Final = frozenset(_ELEMENTWISE.split())
_MAX_COMPUTED = 1 << 26  # values by one node; position tables of the largest towers have millions
_MAX_PASSES = 8  # through all of the constants, which Cast and the like read once


def check_graph(name: str, path: Path) -> int:
    """Refuse a graph that could compute without end as it is opened or run, or allocate as it is
    opened.

    Args:
        name: what errors call it.
        path: its file, .onnx or .ort.

    Returns:
        Values in its largest constant, 0 in ORT format.

    Raises:
        ArtifactError: it has functions, graphs within nodes, operators that no export writes, or
            computes larger tensors out of constants; see also `read_graph_file`.
    """
    graph = read_graph_file(path)
    if graph.extras:
        raise _refusal(name, f"has {' and '.join(graph.extras)}")
    is_ort = path.suffix == ".ort"
    for node in graph.nodes:
        # What is optimized already, as in ORT format, has fused operators of any name.
        unknown = not is_ort and node.op not in _ALLOWED.get(node.domain, ())
        if node.has_graph or unknown:
            domain = f"{node.domain}." if node.domain else ""
            raise _refusal(name, f"has the operator {domain}{node.op}")
    if not is_ort:  # there it has been computed, and the result is in the file
        _check_constant(name, graph)
    return max(map(elements, graph.constants.values()), default=0)


@dataclass(frozen=True)
class _Extent:
    """How large a tensor is: ``count`` values at most, and its ``sizes`` where they are certain."""

    count: int
    sizes: tuple[int, ...] | None = None


def _check_constant(name: str, graph: GraphFile) -> None:
    """ONNX Runtime computes what reads constants alone as it opens a graph, with nobody to stop
    it: sizes of what it computes must be certain, and within bounds."""
    extents = {each: _exactly(sizes) for each, sizes in graph.constants.items()}
    most = max(_MAX_COMPUTED, _MAX_PASSES * sum(each.count for each in extents.values()))
    for node in graph.nodes:
        inputs = [each for each in node.inputs if each]
        if not all(each in extents for each in inputs):
            continue
        extent = _computed(node, [extents[each] for each in inputs], graph.shapes)
        if extent is None:
            raise _refusal(name, f"computes {node.op} of constants")
        if extent.count > max(_MAX_COMPUTED, *(extents[each].count for each in inputs), 0):
            raise _refusal(name, f"computes {extent.count} values of constants by {node.op}")
        most -= extent.count
        if most < 0:
            raise _refusal(name, "computes without end of constants")
        extents |= dict.fromkeys(node.outputs, extent)


def _computed(
    node: Node, given: list[_Extent], shapes: Mapping[str, tuple[int, ...]]
) -> _Extent | None:
    """What a node makes of constants, None where that depends on their values."""
    if node.op == "Constant":
        return _exactly(node.value)
    if not given:
        return None
    if node.op in _ALIKE:
        return given[0]
    if node.op in _NO_LARGER:
        return _Extent(max(each.count for each in given))
    if node.op in _BROADCAST:
        return _broadcast(given)
    if node.op == "Concat":
        return _Extent(sum(each.count for each in given))
    if node.op == "Expand" and (sizes := shapes.get(node.inputs[1])) and min(sizes) >= 0:
        return _broadcast([given[0], _exactly(sizes)])
    if node.op == "Gather":
        data, indices = given
        if data.sizes is None or indices.sizes is None:
            return _Extent(data.count * indices.count)
        axis = node.axis + len(data.sizes) if node.axis < 0 else node.axis
        return _exactly((*data.sizes[:axis], *indices.sizes, *data.sizes[axis + 1 :]))
    return None


def _broadcast(given: list[_Extent]) -> _Extent:
    """What tensors become that are stretched to each other's sizes."""
    several = [each for each in given if each.count > 1]
    if not several:
        return _Extent(1)
    if len(several) == 1:
        return _Extent(several[0].count)
    certain = [each.sizes for each in several if each.sizes is not None]
    if len(certain) < len(several):
        return _Extent(math.prod(each.count for each in several))
    axes = zip_longest(*(reversed(sizes) for sizes in certain), fillvalue=1)
    return _exactly(tuple(max(axis) for axis in axes)[::-1])


def _exactly(sizes: tuple[int, ...]) -> _Extent:
    return _Extent(elements(sizes), sizes)


def _refusal(name: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"{name} {found}",
        expected="what exports write",
        advice="get the artifact from a source that you trust, or export it again",
    )
