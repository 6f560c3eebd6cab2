"""The int8_static precision: ranges of activations, the graph that is made of them, and what is
refused."""

import json
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import MinMaxCalibrater
from PIL import Image

from pocketvlm import Artifact, EngineSettings, PocketVLMError
from pocketvlm.cli import main
from pocketvlm.layouts import make_layout, open_layout
from pocketvlm.media.pictures import open_picture
from pocketvlm.ort.graph_rules import check_graph
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions, export
from pocketvlm_export.calibration import (
    LEAST_PICTURES,
    MOST_PICTURES,
    choose_pictures,
    measure_ranges,
)
from pocketvlm_export.layouts import setting
from pocketvlm_export.loading import inspect_checkpoint
from pocketvlm_export.onnx_passes import StaticInt8
from pocketvlm_export.onnx_passes.static_int8 import scale_of
from pocketvlm_export.packaging import pictures_config
from pocketvlm_export.planning import make_plan
from support.shared import write_once

RANDOM = np.random.default_rng(0)
X = (3 + RANDOM.normal(size=(4, 2, 5, 32))).astype(np.float32)  # four batches, off centre
WEIGHTS = {
    "query": RANDOM.normal(size=(32, 48)).astype(np.float32),
    "key": (RANDOM.normal(size=(32, 48)) * [0.0, *[1.0] * 46, 1e-3]).astype(np.float32),
    "out": RANDOM.normal(size=(48, 16)).astype(np.float32),
}


def write_pictures(folder, count=LEAST_PICTURES):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        shade = 20 + 25 * (number % 8)
        pixels = np.random.default_rng(number).integers(0, shade + 30, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    """Two products of one input, one of their sum, and one of two activations."""
    nodes = [
        helper.make_node("MatMul", ["pixel_values", "query"], ["q"]),
        helper.make_node("MatMul", ["pixel_values", "key"], ["k"]),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"]),
        helper.make_node("Add", ["q", "k"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "out"], ["y"]),
        helper.make_node("Identity", ["pixel_values"], ["same"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 5, 32])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 5, n])
            for name, n in (("y", 16), ("scores", 5), ("same", 32))
        ],
        [numpy_helper.from_array(weight, name) for name, weight in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    """Ranges over all of X, and the file that they were measured of."""
    path = tmp_path_factory.mktemp("measured") / "model.onnx"
    onnx.save(model, path)
    return measure_ranges(path, X), path


@pytest.fixture(scope="module")
def static(model, measured):
    changed = ir.from_proto(model)
    StaticInt8(measured[0])(changed)
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto, options=None):
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["y", "scores"], {"pixel_values": X[0]})


def test_ranges_are_those_of_numpy_and_of_onnxruntimes_calibrater(measured, tmp_path):
    ranges, path = measured
    hidden = np.maximum(X.astype(np.float64) @ (WEIGHTS["query"] + WEIGHTS["key"]), 0)
    # Zero is always within, so that it stays exact.
    expected = {"pixel_values": (min(X.min(), 0), X.max()), "hidden": (0, hidden.max())}
    assert ranges.keys() == expected.keys()
    calibrater = MinMaxCalibrater(path, ["MatMul"], str(tmp_path / "augmented.onnx"))
    calibrater.augment_graph()
    calibrater.create_inference_session()
    inputs = iter([{"pixel_values": batch} for batch in X])

    class Reader:
        def get_next(self):
            return next(inputs, None)

    calibrater.collect_data(Reader())
    theirs = calibrater.compute_data()
    for name, limits in expected.items():
        np.testing.assert_allclose(ranges[name], limits, rtol=1e-5)
        low, high = (np.asarray(value).item() for value in theirs[name].range_value)
        np.testing.assert_allclose(ranges[name], (min(low, 0), high), rtol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_scales_are_those_of_the_formula(static, measured):
    stored = {item.name: numpy_helper.to_array(item) for item in static.graph.initializer}
    for number, (name, weight) in enumerate(WEIGHTS.items()):
        largest = np.abs(weight.astype(np.float64)).max(axis=0)
        scale = np.where(largest > 0, largest / 127, 1)
        np.testing.assert_allclose(stored[f"{name}.scale.{number}"], scale, rtol=1e-6)
        integers = stored[f"{name}.int8.{number}"]
        assert integers.dtype == np.int8
        assert np.abs(integers * scale - weight).max() <= scale.max() * 0.501
        assert not stored[f"{name}.zero.{number}"].any()
    for name, (low, high) in measured[0].items():
        np.testing.assert_allclose(stored[f"{name}.scale"], (high - low) / 255, rtol=1e-6)
        assert stored[f"{name}.zero"] == np.rint(-low / ((high - low) / 255))
        assert stored[f"{name}.zero"].dtype == np.uint8


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=6))
@example([0.0])
@example([-0.0, 5.0])
def test_bytes_are_those_of_onnx(values):
    array = np.array(values, np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(values)])],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (("s", TensorProto.FLOAT), ("z", TensorProto.UINT8))
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    scale, zero = session.run(None, {"x": array})
    ours = scale_of(float(array.min()), float(array.max()))
    if max(array.max(), 0) - min(array.min(), 0) > 1e-30:  # ONNX leaves the rest open
        np.testing.assert_allclose(ours[0], scale, rtol=1e-6)
        assert abs(int(ours[1]) - int(zero)) <= 1  # a half may be rounded either way
    assert ours[0] > 0


def test_near_float32_and_multiplied_in_integers(static, model, tmp_path):
    for ours, exact in zip(run(static), run(model), strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.03 * np.abs(exact).max())
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    run(static, options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 3
    assert kinds.count("QuantizeLinear") == 2  # q and k share theirs
    assert "DequantizeLinear" not in kinds
    onnx.save(static, tmp_path / "static.onnx")
    check_graph("static", tmp_path / "static.onnx")


def test_products_stay_right_where_bytes_overflow(static, model, tmp_path):
    """What the runtime asks for on CPUs without VNNI: unsigned weights."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.optimized_model_filepath = str(tmp_path / "unsigned.onnx")
    for ours, exact in zip(run(static, options), run(model), strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.03 * np.abs(exact).max())
    stored = {item.name: item for item in onnx.load(tmp_path / "unsigned.onnx").graph.initializer}
    nodes = onnx.load(tmp_path / "unsigned.onnx").graph.node
    products = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
    assert [stored[node.input[1]].data_type for node in products] == 3 * [TensorProto.UINT8]


def test_an_activation_without_a_range_is_refused(model, measured):
    ranges = {name: limits for name, limits in measured[0].items() if name != "hidden"}
    with pytest.raises(ir.passes.PreconditionError, match="hidden"):
        StaticInt8(ranges)(ir.from_proto(model))


def test_pictures_are_spread_evenly_and_broken_ones_left_out(tmp_path):
    folder = write_pictures(tmp_path / "many", MOST_PICTURES + 20)
    (folder / "001.png").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture either")
    chosen = choose_pictures(folder)
    names = [path.name for path in chosen.pictures]
    assert len(names) + len(chosen.unreadable) == MOST_PICTURES
    assert names == sorted(names)
    assert chosen.unreadable == ("001.png",)
    assert "001.png" in chosen.warnings[0]
    numbers = np.array([int(name[:3]) for name in names])
    assert np.diff(numbers).max() <= 3


def test_a_folder_that_does_not_do_is_refused_in_one_line(tmp_path):
    few = write_pictures(tmp_path / "few", LEAST_PICTURES)
    (few / "000.png").write_bytes(b"no picture")
    for folder, reason in (
        (tmp_path / "none", "cannot be read"),
        (few / "001.png", "cannot be read"),
        (few, f"{LEAST_PICTURES - 1} pictures that can be read; .*000.png"),
    ):
        with pytest.raises(PocketVLMError, match=reason) as error:
            choose_pictures(folder)
        assert "\n" not in str(error.value)


def test_a_picture_that_the_layout_refuses_is_left_out_of_the_plan(make_tiny, tmp_path):
    folder = write_pictures(tmp_path / "pictures", LEAST_PICTURES + 1)
    Image.new("RGB", (900, 3)).save(folder / "000.png")
    options = ExportOptions(vision_precisions=("int8_static",), calibration=folder)
    plan = make_plan(inspect_checkpoint(str(make_tiny("tiny-qwen2.5-vl")), None), options)
    assert plan.calibration.unreadable == ("000.png",)
    assert any("000.png" in warning for warning in plan.warnings)
    layout = make_layout(setting(plan.spec, plan.layout), pictures_config(plan))
    assert len(list(plan.calibration.batches(layout))) == LEAST_PICTURES
    (folder / "001.png").unlink()
    with pytest.raises(PocketVLMError, match="900x3 pixels is too narrow"):
        make_plan(plan.checkpoint, options)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--vision-precision", "int8_static"], "--calibration FOLDER"),
        (["--calibration", "somewhere"], "--vision-precision int8_static"),
        (["--vision-precision", "int8_static", "--calibration", "nowhere"], "cannot be read"),
    ],
)
def test_calibration_without_its_other_half_is_refused(
    tiny_checkpoint, tmp_path, monkeypatch, arguments, reason
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        main, ["export", str(tiny_checkpoint), "-o", "out", "--budget", "9", *arguments]
    )
    assert done.exit_code == 1
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_of_clips_is_refused(make_tiny, tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    arguments = ["--vision-precision", "int8_static", "--calibration", str(pictures)]
    checkpoint = str(make_tiny("tiny-video-llava"))
    done = CliRunner().invoke(
        main, ["export", checkpoint, "-o", str(tmp_path / "out"), "--dry-run", *arguments]
    )
    assert done.exit_code == 1
    assert "calibrated on pictures, and this export reads" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def calibrated(tiny_checkpoint, tmp_path_factory):
    """tiny-llama in float32 and calibrated, with the pictures; read only."""

    def write(folder):
        pictures = write_pictures(folder.parent / "pictures")
        options = ExportOptions(
            budgets=(18,), vision_precisions=("int8_static", "fp32"), calibration=pictures
        )
        export(str(tiny_checkpoint), folder, options)
        shutil.copytree(pictures, folder / "pictures")

    return write_once(tmp_path_factory, "calibrated", write)


def test_an_export_is_near_its_float32_on_the_users_pictures(calibrated):
    artifact = Artifact.open(calibrated)
    assert artifact.manifest.vision.default_precision == "int8_static"
    figures = artifact.manifest.parity.by_precision["int8_static"]["vision"]
    assert figures["passed"]
    assert 0.99 <= figures["cosine"] < 1
    layout, one = open_layout(artifact), EngineSettings(threads=1)
    exact, ours = (
        VisionEncoder.open(artifact, precision=name, budget=18, settings=one)
        for name in ("fp32", "int8_static")
    )
    for path in sorted((calibrated / "pictures").iterdir()):
        pixel_values = layout.cut(open_picture(path)).pixel_values
        theirs, got = exact.encode(pixel_values), ours.encode(pixel_values)
        shared = np.intersect1d(theirs.kept_indices, got.kept_indices)
        assert len(shared) >= 0.7 * theirs.kept_indices.size
        rows = [
            each.image_features[0][np.isin(each.kept_indices[0], shared)] for each in (theirs, got)
        ]
        cosine = (rows[0] * rows[1]).sum() / np.prod([np.linalg.norm(row) for row in rows])
        assert cosine >= 0.99


def test_the_same_pictures_give_the_same_graph(calibrated, tmp_path):
    """Measured again, on the pixels that the runtime makes of them."""
    exact = tmp_path / "exact.onnx"
    shutil.copy(calibrated / "onnx/vision_encoder.onnx", exact)
    layout = open_layout(Artifact.open(calibrated))
    pictures = sorted((calibrated / "pictures").iterdir())
    batches = [layout.cut(open_picture(path)).pixel_values for path in pictures]
    ranges = measure_ranges(exact, batches)
    published = onnx.load(calibrated / "onnx/vision_encoder_int8_static.onnx")
    stored = {item.name: item for item in published.graph.initializer}
    assert len(ranges) > 8
    for name, limits in ranges.items():
        scale, zero = scale_of(*limits)
        assert numpy_helper.to_array(stored[f"{name}.scale"]) == scale
        assert numpy_helper.to_array(stored[f"{name}.zero"]) == zero


def test_the_card_says_how_many_pictures(calibrated):
    card = (calibrated / "README.md").read_text()
    assert f"int8_static (calibrated on {LEAST_PICTURES} pictures), fp32" in card
    settings = json.loads((calibrated / "config.json").read_text())["transformers.js_config"]
    assert settings["dtype"]["vision_encoder"] == "fp32"  # transformers.js has no name for ours
