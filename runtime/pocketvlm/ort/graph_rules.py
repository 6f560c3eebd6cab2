"""Knows which graphs are opened at all: made of operators that exports write, so that each node
runs once.

A graph is somebody else's program. Without loops, branches, functions and generators each of its
nodes runs once, so it ends. What a node may allocate while it runs follows from sizes that only the
run knows: that is ONNX Runtime's to refuse, and the operating system's to bound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pocketvlm.errors import ArtifactError
from pocketvlm.ort.graph_files import GraphFile, elements, read_graph_file

# ONNX's own operators from tensors to tensors, the same on every run.
_ELEMENTWISE: Final = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual
    Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
_OTHER: Final = """
    ArgMax ArgMin Attention AveragePool BatchNormalization Compress Concat Constant ConstantOfShape
    Conv ConvInteger ConvTranspose CumSum DepthToSpace DequantizeLinear DynamicQuantizeLinear Einsum
    Expand EyeLike Flatten Gather GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool
    GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax
    LpNormalization MatMul MatMulInteger MaxPool MeanVarianceNormalization NonZero OneHot Pad
    QLinearConv QLinearMatMul QuantizeLinear RMSNormalization Range ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape
    Resize RotaryEmbedding ScatterElements ScatterND Shape SimplifiedLayerNormalization Size Slice
    Softmax SpaceToDepth Split Squeeze TensorScatter Tile TopK Transpose Trilu Unsqueeze
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
# What gives no more values than its largest input has; Gather is counted.
_NO_LARGER: Final = """
    Cast Constant DequantizeLinear Flatten Gather Identity Neg QuantizeLinear Reciprocal Reshape
    Shape Size Slice Squeeze Transpose Unsqueeze
"""
_OF_CONSTANTS: Final = frozenset(_NO_LARGER.split())
_MAX_GATHERED = 1 << 26  # values; position tables of the largest towers have a few million


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


def _check_constant(name: str, graph: GraphFile) -> None:
    """ONNX Runtime computes what reads constants alone as it opens a graph, with nobody to stop
    it."""
    sizes = dict(graph.constants)
    for node in graph.nodes:
        inputs = [each for each in node.inputs if each]
        if not all(each in sizes for each in inputs):
            continue
        if node.op not in _OF_CONSTANTS:
            raise _refusal(name, f"computes {node.op} of constants")
        given = [sizes[each] for each in inputs]
        largest = max(given, key=elements, default=())
        if node.op == "Gather" and len(given) == 2:
            data, indices = given
            axis = node.axis + len(data) if node.axis < 0 else node.axis
            largest = (*data[:axis], *indices, *data[axis + 1 :])
            if elements(largest) > _MAX_GATHERED:
                raise _refusal(name, f"gathers {elements(largest)} values of constants")
        sizes |= dict.fromkeys(node.outputs, largest)


def _refusal(name: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"{name} {found}",
        expected="what exports write",
        advice="get the artifact from a source that you trust, or export it again",
    )
