"""Names the dynamic axes of a graph's inputs and outputs as clients expect them."""

from collections.abc import Mapping

import onnx_ir as ir


class NameAxes(ir.passes.InPlacePass):
    """Give dynamic axes plain names; the tracer leaves expressions such as "s29 +
    past_sequence_length", and of an input whose size is a multiple "28*rows".

    ``axes`` has them by the name of an input or output. Most input axes are named when tracing.
    """

    def __init__(self, axes: Mapping[str, Mapping[int, str]]) -> None:
        self.axes = axes

    def requires(self, model: ir.Model) -> None:
        """Every input and output that ``axes`` names exists."""
        missing = set(self.axes) - {value.name for value in _ends(model)}
        if missing:
            raise ir.passes.PreconditionError(f"the graph has no inputs, outputs {sorted(missing)}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename."""
        for value in _ends(model):
            assert value.shape is not None
            shape = value.shape.copy()  # its own may be frozen: that of a constant
            for axis, name in self.axes.get(str(value.name), {}).items():
                shape[axis] = name
            value.shape = shape
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """No dynamic axis of an input or output has a name made up by the tracer."""
        for value in _ends(model):
            for size in value.shape or ():
                if isinstance(size, ir.SymbolicDim) and not str(size.value).isidentifier():
                    raise ir.passes.PostconditionError(
                        f"{value.name} has an axis called {size.value!r}"
                    )


def _ends(model: ir.Model) -> tuple[ir.Value, ...]:
    return (*model.graph.inputs, *model.graph.outputs)
