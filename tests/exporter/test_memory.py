"""What an export holds in memory: a component is gone once its graph is written."""

import gc
import weakref
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from pocketvlm.artifact import Artifact
from pocketvlm_export.build import build_decoder, build_vision
from pocketvlm_export.families.llava import Llava
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.memory import collecting_own_garbage, component, release_memory
from pocketvlm_export.onnx_passes import external_weights
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.arrangement import layout_of
from pocketvlm_export.verification.gate import run_references


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


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize("build", [build_vision, build_decoder])
def test_weights_of_a_written_graph_are_freed(
    tiny_checkpoint, tmp_path, monkeypatch, loaded, build
):
    """All but the few kilobytes that stay inside a graph: onnxscript remembers the last graph
    that its rules were applied to."""
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


SIZE = 96 << 20  # bytes of each component below: far above what an allocator keeps back


def test_a_module_is_freed_although_the_callers_name_still_refers_to_it():
    before = psutil.Process().memory_info().rss
    with component(nn.Linear(SIZE // 4 // 1024, 1024, bias=False)) as module:
        module.register_buffer("table", torch.ones(SIZE // 4))
        wrapper = nn.Sequential(module, nn.Identity())
        assert psutil.Process().memory_info().rss - before > 1.8 * SIZE
    assert psutil.Process().memory_info().rss - before < SIZE / 4
    assert [tensor.numel() for tensor in (*wrapper.parameters(), *wrapper.buffers())] == [0, 0]
    assert module.weight.dtype == torch.float32


def test_tensors_that_are_still_used_elsewhere_stay():
    table = torch.arange(8.0)
    with component(nn.Embedding.from_pretrained(table.reshape(4, 2))) as embedding:
        rows = embedding(torch.tensor([1]))
    assert embedding.weight.numel() == 0
    np.testing.assert_array_equal(table, np.arange(8))
    np.testing.assert_array_equal(rows, [[2, 3]])


def test_what_can_be_closed_is_closed_also_after_an_error():
    class Session:
        closed = 0

        def close(self):
            self.closed += 1

    session = Session()
    with suppress(ZeroDivisionError), component(session) as same:
        assert same is session
        assert not session.closed
        raise ZeroDivisionError
    assert session.closed == 1


def test_anything_else_loses_what_it_held():
    class Reader:
        def __init__(self):
            self.weights = torch.zeros(4)
            self.itself = self  # a cycle keeps nothing alive

    with component(Reader()) as reader:
        held = weakref.ref(reader.weights)
        assert held() is not None
    assert held() is None
    assert vars(reader) == {}


class Cycle:
    """Garbage that only a collection frees."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def thawed():
    """As the interpreter of somebody who has not begun an export."""
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_what_was_there_before_is_not_looked_at_until_the_block_ends():
    before = Cycle()
    earlier, frozen = weakref.ref(before), gc.get_freeze_count()
    with collecting_own_garbage():
        own = weakref.ref(Cycle())
        del before
        with collecting_own_garbage():
            release_memory()
        assert own() is None
        assert earlier() is not None
    release_memory()
    assert earlier() is None
    assert gc.get_freeze_count() == frozen


@pytest.mark.usefixtures("thawed")
def test_what_a_program_has_frozen_stays_so():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with collecting_own_garbage():
            release_memory()
        # A few of them may be freed meanwhile, by counting references; thawing leaves none.
        assert gc.get_freeze_count() > frozen // 2 > 0
    finally:
        gc.unfreeze()


def test_the_gate_has_one_component_at_a_time(tiny_checkpoint, tiny_export, loaded):
    """When transformers' decoder is loaded the tower and its connector are empty."""
    artifact = Artifact.open(tiny_export)
    sizes = []

    def watch(*_):
        sizes.append(sum(tensor.nbytes for ref in loaded if (tensor := ref()) is not None))

    with pytest.MonkeyPatch.context() as patch:
        load = Llava.load_embedding
        patch.setattr(Llava, "load_embedding", lambda *a, **k: (watch(), load(*a, **k))[1])
        checkpoint = open_checkpoint(str(tiny_checkpoint))
        run_references(checkpoint, artifact, layout_of(checkpoint.spec, artifact))
        watch()
    assert loaded
    assert sizes == [0, 0]
