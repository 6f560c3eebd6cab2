"""A tiny artifact that holds several budgets and precisions, as a tuning chooses among them."""

import shutil

import onnx
import pytest

from support.tiny_artifact import read_manifest, write_artifact, write_manifest


@pytest.fixture
def several(tmp_path):
    """Budgets 12, 6 and 3, a second precision of the tower and of the decoder with other weights,
    and weights in files of their own."""
    root, other = tmp_path / "several", tmp_path / "other"
    write_artifact(root, budgets=(12, 6, 3))
    write_artifact(other, budgets=(12, 6, 3), seed=1)
    data = read_manifest(root)
    for name, suffix in (("vision_encoder", ".k6"), ("decoder_model_merged", "")):
        second = f"onnx/{name}_quantized{suffix}.onnx"
        _beside(other / f"onnx/{name}{suffix}.onnx", root / second, data["artifact_id"])
        if suffix:
            data["vision"]["graphs"]["6"]["int8"] = second
    data["decoder"]["graphs"]["int8"] = second
    data["decoder"]["tables"]["int8"] = "fp32"
    data["vision"]["totals"] = {str(k): {"1x1": k} for k in (12, 6, 3)}
    (root / "USING.md").write_text("budgets 12, 6 and 3")
    (root / "README.md").write_text("about the model")
    data["parity"]["by_precision"] = {"int8": {"passed": True}, "int4": {"passed": True}}
    write_manifest(root, data)
    table = read_manifest(root)
    del table["files"]["README.md"]  # as an export leaves it out
    write_manifest(root, table, recount=False)
    shutil.rmtree(other)
    return root


def _beside(source, target, artifact_id):
    """Copy a graph with its weights in a file of their own, stamped as one of another artifact."""
    model = onnx.load(source)
    for prop in model.metadata_props:
        if prop.value != artifact_id and len(prop.value) == 64:
            prop.value = artifact_id
    weights = target.with_suffix(".onnx_data").name
    onnx.save(model, target, save_as_external_data=True, location=weights, size_threshold=128)
