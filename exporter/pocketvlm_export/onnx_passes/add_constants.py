"""Gives a graph outputs that no input changes: what clients put between the features of a
picture."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class AddConstants(ir.passes.InPlacePass):
    """Add an output for each of ``values``, by its name.

    Each is the identity of a weight: some runtimes do not give out a weight as it is.
    """

    def __init__(self, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self.values = values

    def requires(self, model: ir.Model) -> None:
        """No output has such a name yet."""
        taken = {value.name for value in model.graph.outputs} & self.values.keys()
        if taken:
            raise ir.passes.PreconditionError(f"the graph has outputs {sorted(taken)} already")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add them."""
        for name, array in self.values.items():
            weight = ir.Value(
                name=f"{name}.weight", const_value=ir.tensor(array, name=f"{name}.weight")
            )
            weight.shape, weight.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
            model.graph.register_initializer(weight)
            node = ir.node("Identity", [weight], name=name)
            output = node.outputs[0]
            output.name, output.shape, output.dtype = name, ir.Shape(array.shape), ir.DataType.FLOAT
            model.graph.append(node)
            model.graph.outputs.append(output)
        return ir.passes.PassResult(model, modified=bool(self.values))

    def ensures(self, model: ir.Model) -> None:
        """The graph has them."""
        missing = self.values.keys() - {value.name for value in model.graph.outputs}
        if missing:
            raise ir.passes.PostconditionError(f"the graph has no outputs {sorted(missing)}")
