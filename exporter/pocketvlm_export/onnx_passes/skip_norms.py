"""Puts SkipSimplifiedLayerNormalization in the place of a decoder's residual sums and the RMS norms
that follow."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocketvlm_export import upstream
from pocketvlm_export.onnx_passes.attention import made_by
from pocketvlm_export.onnx_passes.block_int4 import MICROSOFT

_SIMPLIFIED = "SimplifiedLayerNormalization"


class SkipNorms(ir.passes.InPlacePass):
    """Fuse by onnxscript's rules: first the norms by themselves, then each with the sum before
    it."""

    def requires(self, model: ir.Model) -> None:
        """The graph has RMS norms as torch's exporter writes them."""
        if not any(node.op_type == "Reciprocal" for node in model.graph):
            raise ir.passes.PreconditionError("the graph has no RMS norm that can be fused")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse."""
        fused = upstream.fuse_norms(model) + upstream.fuse_skip_norms(model)
        # A fused node takes the norm's place; what else reads the sum may come before it.
        model.graph.sort()
        model.opset_imports[MICROSOFT] = 1
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=fused > 0)

    def ensures(self, model: ir.Model) -> None:
        """No RMS norm is left in pieces, and none that follows a sum by itself."""
        pieces = any(node.op_type == "Reciprocal" for node in model.graph)
        after_sums = [
            node
            for node in model.graph
            if node.op_type == _SIMPLIFIED and made_by(node.inputs[0], "Add")
        ]
        if pieces or after_sums:
            raise ir.passes.PostconditionError("norms are left that could be fused")
