"""Knows what picking patches one after another costs: the nodes of every pick in the graph, as
exports write them, against the same nodes in an ONNX Loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmark.interleave import check_quiet, take_turns
from benchmark.options import NUMBERS, Section, Timing, into_section, timed
from pocketvlm.ort.settings import CPU_PROVIDER
from pocketvlm_export.graphs.base import OPSET

_FORMS = ("unrolled", "Loop")
_WIDTH, _CLUSTERS = 64, 20  # of made-up features, which are alike in parts

Floats = npt.NDArray[np.float32]


@click.command()
@click.option("--tokens", type=NUMBERS, default=(576, 1200), show_default=True, help="Patches.")
@click.option("--picks", type=NUMBERS, default=(64, 144), show_default=True, help="Patches kept.")
@timed
@into_section("picking")
def picking(
    tokens: tuple[int, ...], picks: tuple[int, ...], timing: Timing, section: Section
) -> None:
    """SCOPE's picks by themselves, unrolled and as a Loop: time, size of the graph, time to open.

    Ratios are medians of what each turn gave, so that what slows the machine for a while slows both
    alike. The runtime opens no graph with a loop in it; this says what that costs.
    """
    line = check_quiet(timing.allow_busy)
    rows = [_row(n, k, timing) for n in tokens for k in picks]
    lines = [
        f"{timing.threads} threads, {timing.repeat} interleaved turns; {line}.\n",
        "| patches | picks | unrolled, ms: median (smallest-largest) | Loop, of that | nodes | "
        "kB | opened in, ms |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
    section.publish("\n".join(lines))


def _row(tokens: int, picks: int, timing: Timing) -> str:
    feeds = made_up(tokens)
    opened = {form: _open(form, tokens, picks, timing) for form in _FORMS}
    results = [session.run(None, feeds)[0].ravel() for session, _, _ in opened.values()]
    if not np.array_equal(*results):
        raise click.ClickException("the Loop picks other patches")

    def run(session: Any) -> Callable[[], dict[str, float]]:
        def once() -> dict[str, float]:
            started = time.perf_counter()
            session.run(None, feeds)
            return {"pick": (time.perf_counter() - started) * 1e3}

        return once

    spreads = take_turns({form: run(opened[form][0]) for form in _FORMS}, timing.repeat)
    mine, other = (spreads[form]["pick"] for form in _FORMS)
    ratio = np.median(np.array(other.samples) / np.array(mine.samples))
    _, model, opening = opened["unrolled"]
    size = len(model.SerializeToString()) / 1e3
    return (
        f"| {tokens} | {picks} | {mine} | {ratio:.2f} | {len(model.graph.node)} | {size:.0f} | "
        f"{opening:.0f} |"
    )


def made_up(tokens: int) -> dict[str, Floats]:
    """Cosines of clustered features, (1, N, N), and weights, (1, N, 1)."""
    random = np.random.default_rng(0)
    centres = 2 * random.standard_normal((_CLUSTERS, _WIDTH))
    vectors = centres[np.arange(tokens) % _CLUSTERS] + random.standard_normal((tokens, _WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {
        "alike": (vectors @ vectors.T)[None].astype(np.float32),
        "weights": random.random((1, tokens, 1)).astype(np.float32),
    }


def _open(form: str, tokens: int, picks: int, timing: Timing) -> tuple[Any, onnx.ModelProto, float]:
    model = _unrolled(tokens, picks) if form == "unrolled" else _looped(tokens, picks)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = timing.threads, 3
    started = time.perf_counter()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER])
    return session, model, (time.perf_counter() - started) * 1e3


def _step(covered: str, limit: str, to: str) -> list[onnx.NodeProto]:
    """The nodes of a pick, as `pocketvlm_export.pruning.greedy.widest_cover` is traced."""
    make = helper.make_node
    return [
        make("Sub", ["alike", covered], [f"{to}more"]),
        make("Relu", [f"{to}more"], [f"{to}added"]),
        make("ReduceSum", [f"{to}added", "last"], [f"{to}gain"], keepdims=1),
        make("Mul", [f"{to}gain", "weights"], [f"{to}value"]),
        make("Min", [f"{to}value", limit], [f"{to}left"]),
        make("ArgMax", [f"{to}left"], [f"{to}pick"], axis=1, keepdims=1),
        make("Add", [f"{to}pick", "columns"], [f"{to}row"]),
        make("GatherElements", ["alike", f"{to}row"], [f"{to}like"], axis=1),
        make("Max", [covered, f"{to}like"], [f"{to}covered"]),
        make("ScatterElements", [limit, f"{to}pick", "picked"], [f"{to}limit"], axis=1),
    ]


def _model(
    nodes: list[onnx.NodeProto], tokens: int, result: onnx.ValueInfoProto, **more: Any
) -> onnx.ModelProto:
    constants = {
        "last": np.array([2]),
        "columns": np.zeros((1, 1, tokens), np.int64),
        "nothing": np.zeros((1, 1, tokens), np.float32),
        "free": np.full((1, tokens, 1), np.inf, np.float32),
        "picked": np.full((1, 1, 1), -1, np.float32),
        **more,
    }
    inputs = [_float("alike", [1, tokens, tokens]), _float("weights", [1, tokens, 1])]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "picking", inputs, [result], stored)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=onnx.IR_VERSION_2023_5_5
    )


def _unrolled(tokens: int, picks: int) -> onnx.ModelProto:
    nodes, covered, limit = [], "nothing", "free"
    for number in range(picks):
        nodes += _step(covered, limit, f"{number}_")
        covered, limit = f"{number}_covered", f"{number}_limit"
    nodes = nodes[:-4]  # nothing is picked after the last
    listed = [f"{number}_pick" for number in range(picks)]
    nodes.append(helper.make_node("Concat", listed, ["picks"], axis=2))
    return _model(nodes, tokens, _integer("picks", [1, 1, picks]))


def _looped(tokens: int, picks: int) -> onnx.ModelProto:
    step = [*_step("covered", "limit", "_"), helper.make_node("Identity", ["on"], ["going"])]
    state = [_float("covered", [1, 1, tokens]), _float("limit", [1, tokens, 1])]
    after = [_float("_covered", [1, 1, tokens]), _float("_limit", [1, tokens, 1])]
    flag = TensorProto.BOOL
    body = helper.make_graph(
        step,
        "pick",
        [_integer("number", []), helper.make_tensor_value_info("on", flag, []), *state],
        [helper.make_tensor_value_info("going", flag, []), *after, _integer("_pick", [1, 1, 1])],
    )
    loop = helper.make_node("Loop", ["count", "yes", "nothing", "free"], ["a", "b", "picks"])
    loop.attribute.append(helper.make_attribute("body", body))
    result = _integer("picks", [picks, 1, 1, 1])
    return _model([loop], tokens, result, count=np.array(picks), yes=np.array(True))


def _float(name: str, sizes: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


def _integer(name: str, sizes: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, sizes)
