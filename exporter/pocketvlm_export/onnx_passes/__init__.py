"""What happens to a graph after tracing: a pass a module, each `requires -> call -> ensures` as in
onnx_ir."""

from collections.abc import Mapping

import onnx_ir as ir
import onnxscript.optimizer

from pocketvlm.artifact import metadata
from pocketvlm.errors import RequestError
from pocketvlm_export.onnx_passes.block_int4 import BlockInt4
from pocketvlm_export.onnx_passes.dynamic_int8 import DynamicInt8
from pocketvlm_export.onnx_passes.external_weights import (
    INLINE_LIMIT,
    ExternalWeights,
    WeightsFile,
    weights_files,
)
from pocketvlm_export.onnx_passes.group_query_attention import (
    TWO_WAY_RUNTIME,
    GroupQueryAttention,
)
from pocketvlm_export.onnx_passes.half_weights import HalfWeights
from pocketvlm_export.onnx_passes.multi_head_attention import MultiHeadAttention
from pocketvlm_export.onnx_passes.name_axes import NameAxes
from pocketvlm_export.onnx_passes.name_selection import NameSelection
from pocketvlm_export.onnx_passes.rotary import Rotary
from pocketvlm_export.onnx_passes.skip_norms import SkipNorms
from pocketvlm_export.onnx_passes.stamp import Stamp
from pocketvlm_export.onnx_passes.static_int8 import StaticInt8
from pocketvlm_export.onnx_passes.tied_head import LOGITS, TieHead, UntieHead
from pocketvlm_export.onnx_passes.transpose_weights import TransposeWeights
from pocketvlm_export.onnx_passes.unroll_picks import UnrollPicks

_DECODER = (Rotary, GroupQueryAttention, SkipNorms)
# What puts ONNX Runtime's own operators into a kind of graph, in this order.
FUSIONS: Mapping[str, tuple[type[ir.passes.InPlacePass], ...]] = {
    metadata.VISION_ENCODER: (MultiHeadAttention,),
    metadata.CANDIDATES: (MultiHeadAttention,),
    metadata.DECODER: _DECODER,
    metadata.STAGED_DECODER: _DECODER,
    metadata.SCORING_DECODER: _DECODER,
}

__all__ = [
    "FUSIONS",
    "INLINE_LIMIT",
    "LOGITS",
    "TWO_WAY_RUNTIME",
    "BlockInt4",
    "DynamicInt8",
    "ExternalWeights",
    "GroupQueryAttention",
    "HalfWeights",
    "MultiHeadAttention",
    "NameAxes",
    "NameSelection",
    "Rotary",
    "SkipNorms",
    "Stamp",
    "StaticInt8",
    "TieHead",
    "TransposeWeights",
    "UnrollPicks",
    "UntieHead",
    "WeightsFile",
    "fuse",
    "tidy",
    "weights_files",
]


def tidy(model: ir.Model, output_axes: Mapping[str, Mapping[int, str]]) -> None:
    """Bring a freshly traced graph into shape: weights as they are read, constants folded, picks
    unrolled, axes named."""
    TransposeWeights()(model)
    onnxscript.optimizer.optimize(model)
    UnrollPicks()(model)  # behind the optimizer, which would look at each pick and leave it as is
    NameAxes(output_axes)(model)


def fuse(model: ir.Model, kind: str, *, causal: bool = True, full: bool = False) -> None:
    """Put ONNX Runtime's own operators into a tidy graph of a kind. If it is not ``causal``, its
    mask alone decides which tokens attend to each other; if it is ``full``, none is needed.

    Raises:
        RequestError: the graph is not of the shape that they replace.
    """
    for fusion in FUSIONS.get(kind, ()):
        try:
            attention = GroupQueryAttention(causal=causal, full=full)
            (attention if fusion is GroupQueryAttention else fusion())(model)
        except (ir.passes.InvariantError, ir.passes.PassError) as error:
            reason = error.__cause__ or error
            raise RequestError(
                f"{fusion.__name__} cannot be put into the {kind} graph ({reason})",
                advice="export with --portable",
                setting="portable",
            ) from error
