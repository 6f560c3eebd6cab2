"""Stores weights the way their MatMul reads them, so that a device need not transpose them at
load."""

import onnx_ir as ir

from pocketvlm_export.onnx_passes.weights import transposed


class TransposeWeights(ir.passes.InPlacePass):
    """Replace Transpose(weight) by a weight stored transposed.

    The transposed values are computed when they are written, a weight at a time, so that folding
    costs no memory.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold every Transpose of an initializer."""
        changed = False
        for node in list(model.graph):
            if node.op_type != "Transpose" or not _is_weight(node.inputs[0]):
                continue
            weight, output = node.inputs[0], node.outputs[0]
            assert weight is not None
            assert weight.const_value is not None
            attribute = node.attributes.get("perm")
            order = (
                tuple(attribute.as_ints())
                if attribute
                else tuple(reversed(range(len(weight.const_value.shape))))
            )
            name = f"{weight.name}.{''.join(map(str, order))}"
            folded = model.graph.initializers.get(name) or transposed(weight, order, name)
            model.graph.initializers[name] = folded
            output.replace_all_uses_with(folded)
            model.graph.remove(node, safe=True)
            if not weight.uses():
                _drop(model.graph, weight)
            changed = True
        return ir.passes.PassResult(model, changed)

    def ensures(self, model: ir.Model) -> None:
        """No Transpose of an initializer is left."""
        left = [
            node
            for node in model.graph
            if node.op_type == "Transpose" and _is_weight(node.inputs[0])
        ]
        if left:
            raise ir.passes.PostconditionError(
                f"{len(left)} weights are still transposed at run time"
            )


def _drop(graph: ir.Graph, weight: ir.Value) -> None:
    """Remove ``weight`` and let go of its values.

    A graph remembers its earlier initializers, and onnxscript's rules remember their last graph for
    as long as the process runs. With its values in it that would be the largest part of a freed
    module.
    """
    graph.initializers.pop(str(weight.name))
    weight.const_value = None


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and value.const_value is not None
