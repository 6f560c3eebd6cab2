"""Fixtures for every test: tiny checkpoints in the real Hugging Face format, and artifacts exported
from them once."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from install_llama_cpp import CACHE
from make_checkpoint import HUB_PRESETS, PRESETS, HubPreset, Preset, make_checkpoint
from pocketvlm_export import ExportOptions, build, export
from pocketvlm_export.graphs import trace
from support.shared import write_once
from support.traces import Traces, kept_traces

# pytest captures every level; torch's tracer then formats thousands of records that nobody reads.
logging.getLogger("torch").setLevel(logging.WARNING)
logging.getLogger("torch.__trace").disabled = True

# Several processes of tests share the cores. Each, with its children, keeps to its own: engines
# that take a thread a core would spin while they wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number::count] or cores)

# Written and exported at most once a session: an export costs seconds.
BUDGETS = (9, 18)

# Files that take longest, to begin with: a process is handed whole files, and one that is handed a
# long one last leaves the others idle.
LONG = (
    "test_invariants",
    "test_products",
    "test_qwen_towers",
    "test_fuzz",
    "test_readme",
    "test_frontier",
)

# Shells let background jobs ignore Ctrl-C, and processes started from there with them; what is
# tested must not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Put the tests of `LONG` first, in its order; all others stay where they are."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


def pytest_addoption(parser):
    parser.addoption(
        "--all-combinations",
        action="store_true",
        help="Try every combination of registry entries, not only every pair of them.",
    )
    parser.addoption(
        "--trace-anew",
        action="store_true",
        help="Trace each export by itself, as outside of tests.",
    )


@pytest.fixture(scope="session", autouse=True)
def shared_traces(request):
    """A structure that torch has traced, in this run or in one of the last days, is not traced
    again: most of what an export of a tiny model takes. A trace is another's where the exporter's
    code or a library has changed. What is made of it, and the gate, are every export's own."""
    if request.config.getoption("trace_anew"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "trace", Traces(kept_traces(CACHE / "traces"), trace))
        # Torch looks up what an operator gives by its symbolic sizes. That pays for models of eight
        # layers and more; of two it is a quarter of tracing. No graph changes.
        patch.setattr("torch._dynamo.config.fake_tensor_cache_enabled", False)
        yield


@pytest.fixture
def traced_anew(monkeypatch):
    """For a test of what tracing leaves behind."""
    monkeypatch.setattr(build, "trace", trace)


@pytest.fixture
def board(tmp_path) -> Callable[..., Path]:
    """Write a deployment target with these values and return its path."""

    def write(**values) -> Path:
        path = tmp_path / "board.toml"
        lines = [
            f"{key} = {json.dumps(value)}"
            for key, value in {"description": "a board", **values}.items()
        ]
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory) -> Callable[..., Path]:
    """Write a checkpoint from a preset (its name, or what stands behind it) into a new folder."""

    def make(preset: str | Preset | HubPreset = "tiny-llama", **options) -> Path:
        named = {**PRESETS, **HUB_PRESETS}
        chosen = named[preset] if isinstance(preset, str) else preset
        return make_checkpoint(chosen, tmp_path_factory.mktemp("checkpoint") / "tiny", **options)

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_tiny) -> Path:
    """tiny-llama: 36 patches, CLIP tower of 4 layers, Llama decoder of 2; read only."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_export(tiny_checkpoint, tmp_path_factory) -> Path:
    """The artifact of `tiny_checkpoint` by FasterVLM at budgets 9 and 18, vision in fp32 and fp16;
    read only."""
    options = ExportOptions(
        "fastervlm",
        budgets=BUDGETS,
        vision_precisions=("fp32", "fp16"),
        decoder_precisions=("fp32", "fp16"),
    )
    return write_once(
        tmp_path_factory,
        "tiny-llama",
        lambda folder: export(str(tiny_checkpoint), folder, options),
    )
