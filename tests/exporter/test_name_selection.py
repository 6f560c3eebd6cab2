"""Which nodes of a vision graph are named as selecting: those that the features could be computed
without."""

import onnx
import pytest
from onnx.utils import Extractor

from pocketvlm import Artifact
from pocketvlm.artifact.metadata import SELECTION

FETCHING = {"Add", "Unsqueeze", "Expand", "GatherElements"}


def selecting(model):
    return {node.name for node in model.graph.node if node.name.startswith(SELECTION)}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_features_need_no_selecting_node_once_the_kept_tokens_are_given(tiny_export, precision):
    artifact = Artifact.open(tiny_export)
    model = onnx.load(
        artifact.path(artifact.manifest.vision.graphs[9][precision]), load_external_data=False
    )
    tower = Extractor(model).extract_model(["pixel_values", "kept_indices"], ["image_features"])
    needed = {node.name for node in tower.graph.node}
    left_out = {node.name for node in model.graph.node} - needed
    assert left_out <= selecting(model)
    # What is needed although it selects: the way from the indices to the rows that they name.
    fetching = [node for node in tower.graph.node if node.name.startswith(SELECTION)]
    assert {node.op_type for node in fetching} == FETCHING
    kinds = [node.op_type for node in model.graph.node if node.name in left_out]
    assert kinds.count("TopK") == 2
    assert kinds.count("MatMul") == 2  # the query of [CLS], and its products with the keys


def test_other_graphs_have_none(tiny_export):
    for name in ("onnx/embed_tokens.onnx", "onnx/decoder_model_merged.onnx"):
        assert not selecting(onnx.load(tiny_export / name, load_external_data=False))
