"""`export --target`: the target's values where no flag is given, what it costs on the device, and
its memory limit."""

import copy
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from pocketvlm.cli import main
from pocketvlm_export import ExportOptions
from pocketvlm_export.footprint import Footprint, estimate_footprint
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.memory import estimate_peak
from pocketvlm_export.pipeline import prepare
from pocketvlm_export.planning import make_plan
from pocketvlm_export.towers.attention import MAP_BYTES
from pocketvlm_targets import load_target, target_names


@pytest.fixture
def plan_of(tiny_checkpoint, tmp_path):
    """The result of ``export --dry-run`` with these arguments, and what it printed as JSON."""

    def call(*arguments, model=tiny_checkpoint):
        command = [
            "export",
            str(model),
            "-o",
            str(tmp_path / "out"),
            "--dry-run",
            "--json",
            *map(str, arguments),
        ]
        result = CliRunner().invoke(main, command)
        return result, json.loads(result.stdout) if result.exit_code == 0 else None

    return call


def refused(result, *words):
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


def test_a_flag_beats_a_target_and_a_target_a_default(plan_of, board):
    path = board(
        budget=[7, 5],
        vision_precision=["fp16"],
        decoder_precision=["fp16", "fp32"],
        context=100,
        threads=3,
    )
    _, plan = plan_of("--target", path)
    assert (plan["budgets"], plan["context"]) == ([7, 5], 100)
    graphs = {"vision_encoder_fp16", "vision_encoder_fp16.k5", "embed_tokens_fp16", "embed_tokens"}
    graphs |= {"decoder_model_merged_fp16", "decoder_model_merged"}
    assert set(plan["files"]) == {f"onnx/{name}.onnx" for name in graphs}
    _, plan = plan_of(
        "--budget", 3, "--decoder-precision", "fp32", "--context", 90, "--target", path
    )
    assert (plan["budgets"], plan["context"]) == ([3], 90)
    assert set(plan["files"]) == {
        f"onnx/{name}.onnx"
        for name in ("vision_encoder_fp16", "embed_tokens", "decoder_model_merged")
    }
    _, plan = plan_of()
    assert plan["budgets"] == [9]


def test_what_only_answering_reads_is_no_matter_of_an_export(plan_of, board):
    _, plan = plan_of("--target", board(budget=[5]))
    result, same = plan_of("--target", board(budget=[5], provider=["openvino"], threads=3))
    assert result.exit_code == 0, result.stderr
    assert same == plan


def test_a_decoder_that_is_typed_leaves_the_targets_precisions_for_the_other(plan_of, board):
    pytest.importorskip("llama_cpp")
    path = board(decoder="onnx", decoder_precision=["fp16"], budget=[4])
    _, plan = plan_of("--decoder", "llama.cpp", "--target", path)
    assert set(plan["files"]) == {"onnx/vision_encoder.onnx", "gguf/decoder-q8_0.gguf"}


def test_a_target_may_ask_for_a_file_for_each_table(plan_of, board, make_tiny):
    model = make_tiny("tiny-qwen2")  # tied
    flags = ["--decoder-precision", "int4", "--embed-precision", "int4"]
    sizes = [
        plan_of(*flags, *more, model=model)[1]["files"]["onnx/embed_tokens_q4.onnx"]
        for more in (
            [],
            ["--separate-tables"],
            ["--target", board(shared_tables=False)],
            ["--target", board(shared_tables=False), "--shared-tables"],
        )
    ]
    assert sizes[0] == sizes[3] < sizes[1] == sizes[2]


def test_what_a_page_cannot_look_up_in_is_not_written_for_one(plan_of):
    _, plan = plan_of("--target", "browser-wasm", "--decoder-precision", "int4,int8", model="demo")
    tables = {file for file in plan["files"] if "embed_tokens" in file}
    assert tables == {"onnx/embed_tokens_fp16.onnx", "onnx/embed_tokens_quantized.onnx"}


def test_a_page_with_a_gpu_has_what_it_falls_back_to(plan_of):
    """A tower without fp16 in its name, and a table that WebAssembly looks up in."""
    _, plan = plan_of("--target", "browser-webgpu", model="demo")
    graphs = {"vision_encoder_fp16", "vision_encoder", "decoder_model_merged_q4"}
    graphs |= {"embed_tokens_q4", "embed_tokens_fp16"}
    assert set(plan["files"]) == {f"onnx/{name}.onnx" for name in graphs}


def test_no_pruning_needs_no_budget(plan_of, board):
    _, plan = plan_of("--pruner", "none", "--target", board(budget=[4]))
    assert plan["budgets"] == [36]


def test_a_total_budget_that_is_typed_leaves_no_place_for_the_targets(make_tiny, board, plan_of):
    model = make_tiny("tiny-llava-next")
    path = board(budget=[4])
    _, plan = plan_of("--target", path, model=model)
    assert plan["budgets"] == [4]
    for order in (
        ["--target", path, "--total-budget", 60],
        ["--total-budget", 60, "--target", path],
    ):
        _, totals = plan_of(*order, model=model)
        assert totals["budgets"] == plan_of("--total-budget", 60, model=model)[1]["budgets"]


def test_what_cannot_be_exported_names_target_and_key(plan_of, board):
    path = board(vision_precision=["int3"])
    refused(
        plan_of("--target", path)[0],
        str(path),
        "vision_precision",
        "'int3'",
        "fp32",
        "--vision-precision",
    )
    assert plan_of("--target", path, "--vision-precision", "fp16")[0].exit_code == 0
    path = board(decoder="both", gguf_type=["q2_k"])
    refused(plan_of("--target", path)[0], str(path), "gguf_type", "'q2_k'", "q8_0")
    refused(plan_of("--target", board(budget=[64]))[0], "budget 64 is outside 1..36")


def test_a_context_must_hold_a_picture_and_a_question(plan_of, tiny_checkpoint):
    refused(plan_of("--context", 40)[0], "context 40", "9 tokens", "at least 73")
    own = inspect_checkpoint(str(tiny_checkpoint), None).spec.decoder.context
    assert plan_of("--context", own + 1)[1]["context"] == own
    assert plan_of("--context", 73)[1]["context"] == 73


def test_the_limit_is_held_against_the_estimate(plan_of, board):
    needed = plan_of()[1]["device_memory_bytes"] / 1e6
    path = board(memory_limit=int(needed) - 1)
    refused(
        plan_of("--target", path)[0],
        f"{needed:.0f} MB",
        f"{int(needed) - 1} MB",
        "--memory-limit 0",
    )
    for enough in (0, int(needed) + 1):
        assert plan_of("--target", path, "--memory-limit", enough)[0].exit_code == 0
    assert plan_of("--target", path, "--context", 80)[0].exit_code == 0  # less cache
    assert plan_of("--memory-limit", 1)[0].exit_code == 1


def test_cost_is_printed_before_exporting(tiny_checkpoint, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(
        "pocketvlm_export.pipeline.build", lambda *_: begun.append("build") or 1 / 0
    )
    result = CliRunner().invoke(main, ["export", str(tiny_checkpoint), "-o", str(tmp_path / "out")])
    assert begun == ["build"]
    assert result.stderr.startswith("on the device: files of about ")
    plan = prepare(str(tiny_checkpoint), tmp_path / "out", ExportOptions()).to_dict()
    assert f"memory about {plan['device_memory_bytes'] / 1e6:.1f} MB" in result.stderr


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_exports_the_demo(plan_of, name):
    result, plan = plan_of("--target", name, model="demo")
    assert result.exit_code == 0, result.stderr
    assert plan["budgets"] == list(load_target(name).budget)
    assert plan["device_memory_bytes"] < load_target(name).memory_limit * 1e6


def test_memory_grows_with_what_is_held(tiny_checkpoint):
    checkpoint = inspect_checkpoint(str(tiny_checkpoint), None)

    def footprint(**options) -> Footprint:
        return make_plan(checkpoint, ExportOptions(**options)).footprint()

    spec = checkpoint.spec.decoder
    small, large = footprint(context=100), footprint(context=101)
    # Keys and values, of this step and of the one before, float32.
    assert large.cache - small.cache == 2 * 2 * spec.layers * spec.kv_heads * spec.head_dim * 4
    assert footprint(budgets=(30,)).activations >= footprint(budgets=(2,)).activations
    halves = footprint(vision_precisions=("fp16",), decoder_precisions=("fp16",))
    assert halves.weights > footprint().weights  # folded into float32, beside the file


@pytest.mark.parametrize(
    ("preset", "own", "typed"),
    [
        ("tiny-qwen2.5-vl", "max_pixels", ["--max-tiles", 2]),
        ("tiny-internvl", "max_tiles", ["--max-pixels", 9000]),
    ],
)
def test_a_targets_caps_are_taken_where_the_model_has_them(
    make_tiny, plan_of, board, preset, own, typed
):
    model, values = make_tiny(preset), {"max_pixels": 784 * 20, "max_tiles": 2}
    _, plan = plan_of("--target", board(**values), model=model)
    assert plan["caps"] == {own: values[own]}
    # A checkpoint under a smaller limit of its own is as good.
    path = board(max_pixels=10_000_000, max_tiles=99, budget=[4])
    result, plan = plan_of("--target", path, model=model)
    assert result.exit_code == 0, result.stderr
    stated = inspect_checkpoint(str(model), None).spec.layouts["hf"].stated[own]
    assert plan["caps"] == {own: min(stated, 10_000_000)}
    refused(plan_of(*typed, model=model)[0], "does not apply to")  # what is typed is meant
    path = board(**{own: 1})
    if own == "max_pixels":
        refused(plan_of("--target", path, model=model)[0], str(path), "--max-pixels")


def test_a_targets_fixed_size_and_a_typed_cap(make_tiny, plan_of, board, tiny_checkpoint):
    model = make_tiny("tiny-qwen2.5-vl")
    fixed = board(fixed_size="56x84")
    assert plan_of("--target", fixed, model=model)[1]["caps"] == {"fixed_size": [56, 84]}
    typed = ["--max-pixels", 7840, "--target", fixed]
    assert plan_of(*typed, model=model)[1]["caps"] == {"max_pixels": 7840}
    small = ["--target", board(max_pixels=7840), "--fixed-size", "56x84"]
    assert plan_of(*small, model=model)[1]["caps"] == {"fixed_size": [56, 84]}
    assert plan_of("--target", fixed)[1]["caps"] == {}  # pictures of one size anyway


def of_3b(spec, patches):
    """A tower of Qwen2.5-VL-3B's dimensions for pictures of so many patches."""
    config = copy.deepcopy(spec.vision.config)
    config.update(
        {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420}
        | {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "patch_size": 14}
    )
    return replace(spec.vision, config=config, tokens=patches // 4)


@pytest.mark.parametrize(("patches", "most"), [(2048, 300), (8000, 1000)])
def test_no_map_of_all_patches_is_counted_where_none_is_made(make_tiny, patches, most):
    """16 heads x 8000 x 8000 floats would be 4 GB; a layer's activations are 4 x 1280 and 3 x 3420
    floats a patch, its windows' maps 16 x 64, of which four are alive."""
    spec = inspect_checkpoint(str(make_tiny("tiny-qwen2.5-vl")), None).spec
    spec = replace(spec, vision=of_3b(spec, patches))

    def activations(fused):
        taken = {"slots": 1, "tiles": 1, "context": 1024, "onnx": True, "fused": fused}
        return estimate_footprint(spec, [], **taken).activations

    floats = patches * (4 * 1280 + 3 * 3420 + 4 * 16 * 64)
    assert activations(True) == 4 * floats < most * 1e6
    # A score layer, or other engines: one block of queries at a time.
    spelt = 4 * (floats - patches * 4 * 16 * 64) + 4 * max(MAP_BYTES, 4 * 16 * 64 * patches)
    assert activations(False) == spelt


def test_the_exports_peak_holds_the_maps_that_the_method_reads(make_tiny):
    spec = inspect_checkpoint(str(make_tiny("tiny-qwen2.5-vl")), None).spec
    spec = replace(spec, vision=of_3b(spec, 8000))

    def peak(budget, recorded):
        return estimate_peak(spec, 0, 0, 0, budget=budget, recorded=recorded)

    # The gate's pictures follow from the budget, so the largest picture's map is in no memory.
    assert peak(128, 0) < 1.2e9 < peak(1900, 0)
    assert peak(2000, 1) - peak(2000, 0) == 4 * 16 * 8000**2  # as many tokens as there are
