"""What an export holds in memory: a component is gone once its graph is written."""

import gc
import weakref

import pytest
import torch

from pocketvlm_export.build import build_decoder, build_vision
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.onnx_passes import external_weights
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.plan import make_plan
from pocketvlm_export.quiet import quiet_transformers


@pytest.fixture
def loaded(monkeypatch):
    """Weak references to the parameters of every component that is loaded."""
    references: list[weakref.ref[torch.Tensor]] = []

    def watched(load):
        def wrapper(*arguments, **options):
            module = load(*arguments, **options)
            references.extend(weakref.ref(parameter) for parameter in module.parameters())
            return module

        return wrapper

    for name in ("load_tower", "load_projector", "load_decoder"):
        monkeypatch.setattr(Llava, name, watched(getattr(Llava, name)))
    return references


@pytest.mark.parametrize("build", [build_vision, build_decoder])
def test_weights_of_a_written_graph_are_freed(
    tiny_checkpoint, tmp_path, monkeypatch, loaded, build
):
    """All but the few kilobytes that stay inside a graph: onnxscript's rules remember the graph
    that they saw last."""
    monkeypatch.setattr(external_weights, "INLINE_LIMIT", 30_000)
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    (tmp_path / "onnx").mkdir()
    options = ExportOptions(vision_precisions=("fp32", "fp16"), decoder_precisions=("fp32", "fp16"))
    with quiet_transformers():
        build(make_plan(checkpoint, options), tmp_path, lambda _: None)
    gc.collect()
    assert loaded
    alive = [parameter for reference in loaded if (parameter := reference()) is not None]
    assert sum(parameter.nbytes for parameter in alive) < 30_000
