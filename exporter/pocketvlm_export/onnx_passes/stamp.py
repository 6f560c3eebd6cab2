"""Writes the metadata that ties a graph to its artifact, and removes what the tracer noted about
this machine."""

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass


class Stamp(ir.passes.InPlacePass):
    """Merge ``properties`` into the model's metadata_props; node metadata (stack traces, local
    paths) is cleared."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self.properties = properties

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clear, then stamp."""
        merged = {**model.metadata_props, **self.properties}
        ClearMetadataAndDocStringPass()(model)
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.metadata_props.clear()
        model.metadata_props.clear()
        model.metadata_props.update(merged)
        model.graph.name = "pocketvlm"
        return ir.passes.PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """The properties are there."""
        if not self.properties.items() <= model.metadata_props.items():
            raise ir.passes.PostconditionError("the graph did not take its metadata")
