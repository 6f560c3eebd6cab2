"""Graphs are byte for byte what torch's exporter makes by itself, whatever is computed once.

Passed with torch 2.13.
"""

from contextlib import nullcontext

import onnx_ir as ir
import pytest
import torch
from torch import fx, nn

from pocketvlm_export.graphs import base
from pocketvlm_export.graphs.base import trace


class Products(nn.Module):
    """Of an input (B, 4), in a few ways of giving results."""

    def __init__(self, results):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.results = nn.Linear(4, 4), results

    def forward(self, x):
        return self.results(self.linear, x, self.linear(x).softmax(dim=-1) @ torch.eye(4))


def of_a_known_size(linear, x, y):
    count = (y > 0).sum().item()
    torch._check(count >= 1)
    torch._check(count <= y.numel())
    return y.flatten()[:count].sum(dim=0, keepdim=True), y


# {name: (the results, whether the program may run only once)}
RESULTS = {
    "new": (lambda linear, x, y: (y, y + 1), True),
    "copied and changed": (lambda linear, x, y: (x.clone().add_(1), y), True),
    "twice the same": (lambda linear, x, y: (y, y), False),
    "views of one": (lambda linear, x, y: (y[:, :2], y[:, 2:]), False),
    "a view of the input": (lambda linear, x, y: (x[:, :2], y), False),
    "a view of a weight": (lambda linear, x, y: (linear.weight.T, y), False),
    "of a size known at run time": (of_a_known_size, False),
}


class ProductsGraph:
    kind, input_names, output_names = "products", ("x",), ("first", "second")
    dynamic_axes, output_axes = ({0: "batch_size"},), {}

    def __init__(self, results):
        self.module = Products(results).eval()

    def sample_inputs(self):
        return (torch.randn(3, 4),)


@pytest.fixture
def nodes_run(monkeypatch):
    """A list that grows by each node of a program that is run."""
    run, ran = fx.Interpreter.run_node, []

    def counted(self, node):
        ran.append(node.name)
        return run(self, node)

    monkeypatch.setattr(fx.Interpreter, "run_node", counted)
    return ran


@pytest.mark.parametrize("name", RESULTS)
def test_the_graph_is_that_of_torch(monkeypatch, nodes_run, name):
    results, once = RESULTS[name]
    ours, quick = ir.to_proto(trace(ProductsGraph(results))), len(nodes_run)
    monkeypatch.setattr(base, "quick_tracing", nullcontext)
    nodes_run.clear()
    theirs = ir.to_proto(trace(ProductsGraph(results)))
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
        deterministic=True
    )
    assert (quick < len(nodes_run)) is once


def test_everything_is_as_before_afterwards():
    from torch._functorch._aot_autograd import graph_capture_wrappers
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    def patched():
        return vars(ONNXRegistry)["from_torchlib"], vars(graph_capture_wrappers)[
            "PropagateUnbackedSymInts"
        ]

    before = patched()
    with base.quick_tracing():
        assert all(one is not other for one, other in zip(before, patched(), strict=True))
        operators = ONNXRegistry.from_torchlib(opset_version=base.OPSET)
        assert ONNXRegistry().from_torchlib(opset_version=base.OPSET) is operators
    assert patched() == before


def test_a_module_is_captured_in_one_way_or_refused():
    """``len`` fixes the batch: torch by itself then captures a second way, in which numpy's
    arithmetic is part of the graph."""

    def fixed(linear, x, y):
        return y.reshape(len(y), -1), y

    with pytest.raises(Exception, match="inferred a static shape of 3 for dimension"):
        trace(ProductsGraph(fixed))
