"""The exported vision graph against a float64 oracle, at other budgets, batches and feature
layers."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from make_checkpoint import PRESETS
from pocketvlm import Artifact
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export.build import build_vision
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.options import ExportOptions
from pocketvlm_export.planning import make_plan
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification.pictures import gate_pictures
from support.clip_oracle import ClipOracle, best

TOWER = PRESETS["tiny-llama"].vision
PICTURES = gate_pictures(3, (42, 42))


@pytest.fixture(scope="module")
def traces(tiny_checkpoint):
    """Every layer of the first picture."""
    oracle = ClipOracle(
        tiny_checkpoint, heads=TOWER["num_attention_heads"], patch=TOWER["patch_size"]
    )
    return oracle, oracle.run(PICTURES[0])


@pytest.fixture
def encode(tiny_export):
    """Run the exported graph of a budget on pictures."""
    artifact = Artifact.open(tiny_export)
    return lambda pictures, **options: VisionEncoder.open(artifact, **options).encode(pictures)


def build(checkpoint, folder, **options):
    """Only the vision graphs of a checkpoint; returns a function from (pictures, budget) to the
    graph's outputs."""
    opened = open_checkpoint(str(checkpoint))
    plan = make_plan(opened, ExportOptions(**{"pruner": "fastervlm", **options}))
    (folder / "onnx").mkdir(parents=True)
    with quiet_transformers():
        build_vision(plan, folder, lambda _: None)

    def run(pictures, budget):
        file = folder / plan.vision[budget]["fp32"]
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"pixel_values": pictures}), strict=True))

    return run


def test_graph_equals_the_oracle(traces, encode):
    oracle, layers = traces
    outputs = encode(PICTURES[:1])
    layer = layers[-2]  # vision_feature_layer: -2
    scores = layer.probabilities[:, 0, 1:].mean(0)
    kept = best(scores, 9)
    np.testing.assert_array_equal(outputs.kept_indices[0], kept)
    np.testing.assert_allclose(outputs.kept_scores[0], scores[kept], atol=1e-6)
    np.testing.assert_allclose(
        outputs.image_features[0], oracle.project(layer.output[1:])[kept], atol=1e-4
    )


def test_the_oracle_tells_likely_mistakes_apart(traces):
    _, layers = traces
    right = best(layers[-2].probabilities[:, 0, 1:].mean(0), 9).tolist()
    mistakes = {
        "last layer": layers[-1].probabilities[:, 0, 1:].mean(0),
        "layer before": layers[-3].probabilities[:, 0, 1:].mean(0),
        "logits": layers[-2].logits[:, 0, 1:].mean(0),
        "received attention": layers[-2].probabilities.mean((0, 1))[1:],
    }
    for mistake, scores in mistakes.items():
        assert best(scores, 9).tolist() != right, mistake


@pytest.mark.parametrize("budget", [1, 5, 8])
def test_smaller_budget_equals_a_graph_exported_at_it(tiny_checkpoint, encode, tmp_path, budget):
    served = encode(PICTURES).narrow(budget)
    exported = build(tiny_checkpoint, tmp_path, budgets=(budget,))(PICTURES, budget)
    np.testing.assert_array_equal(served.kept_indices, exported["kept_indices"])
    np.testing.assert_allclose(served.image_features, exported["image_features"], atol=1e-5)


def test_second_budget_serves_the_first_exactly(encode):
    small, large = encode(PICTURES, budget=9), encode(PICTURES, budget=18).narrow(9)
    np.testing.assert_array_equal(small.kept_indices, large.kept_indices)
    np.testing.assert_allclose(small.image_features, large.image_features, atol=1e-5)


def test_a_batch_equals_its_pictures_one_by_one(encode):
    together = encode(PICTURES)
    alone = [encode(PICTURES[i : i + 1]) for i in range(len(PICTURES))]
    np.testing.assert_array_equal(
        together.kept_indices, np.concatenate([x.kept_indices for x in alone])
    )
    np.testing.assert_allclose(
        together.image_features, np.concatenate([x.image_features for x in alone]), atol=1e-5
    )


@pytest.mark.parametrize("layers", [[-2, -1], [1, 3, -2], [-1, 2], 4])
def test_several_feature_layers(make_tiny, tmp_path, layers):
    checkpoint = make_tiny(PRESETS["tiny-llama"].but(llava={"vision_feature_layer": layers}))
    outputs = build(checkpoint, tmp_path, budgets=(9,))(PICTURES[:1], 9)
    oracle = ClipOracle(checkpoint, heads=4, patch=7)
    traces = oracle.run(PICTURES[0])
    listed = [layers] if isinstance(layers, int) else layers
    # Hidden state i is the output of layer i - 1; from the end both count alike.
    chosen = [traces[index if index < 0 else index - 1] for index in listed]
    kept = best(chosen[-1].probabilities[:, 0, 1:].mean(0), 9)
    features = oracle.project(np.concatenate([layer.output[1:] for layer in chosen], axis=-1))
    np.testing.assert_array_equal(outputs["kept_indices"][0], kept)
    np.testing.assert_allclose(outputs["image_features"][0], features[kept], atol=1e-4)


def test_unpruned_graph_keeps_every_patch(tiny_checkpoint, traces, tmp_path):
    oracle, layers = traces
    outputs = build(tiny_checkpoint, tmp_path, pruner="none")(PICTURES[:1], 36)
    np.testing.assert_array_equal(outputs["kept_indices"], [np.arange(36)])
    np.testing.assert_allclose(
        outputs["image_features"][0], oracle.project(layers[-2].output[1:]), atol=1e-4
    )


def test_graph_computes_only_what_is_kept(tiny_export):
    model = onnx.load(tiny_export / "onnx" / "vision_encoder.onnx")
    names = {tensor.name for tensor in model.graph.initializer}
    used = {int(name.split(".")[1]) for name in names if name.startswith("layers.")}
    assert used == {0, 1, 2}  # the fourth layer lies above the features
    operators = [node.op_type for node in model.graph.node]
    # Three layers of six products, the projector's two, and two for the [CLS] row: its keys are not
    # computed twice.
    assert operators.count("MatMul") == 3 * 6 + 2 + 2
    assert operators.count("MultiHeadAttention") == 3
    assert operators.count("TopK") == 2
    assert not {"NonZero", "Compress", "Loop", "If"} & set(operators)


def test_graph_names_and_types(tiny_export):
    session = ort.InferenceSession(tiny_export / "onnx" / "vision_encoder_fp16.onnx")
    shapes = {x.name: (x.shape, x.type) for x in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {
        "pixel_values": (["batch_size", 3, 42, 42], "tensor(float)"),
        "image_features": (["batch_size", 9, 64], "tensor(float)"),
        "kept_indices": (["batch_size", 9], "tensor(int64)"),
        "kept_scores": (["batch_size", 9], "tensor(float)"),
    }


def test_a_second_budget_costs_a_graph_not_a_tower(make_tiny, tmp_path):
    tower = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    checkpoint = make_tiny(PRESETS["tiny-llama"].but(vision=tower))
    sizes = {}
    for budgets in ((9,), (9, 18)):
        folder = tmp_path / str(len(budgets))
        run = build(checkpoint, folder, budgets=budgets)
        sizes[budgets] = sum(path.stat().st_size for path in (folder / "onnx").iterdir())
        assert run(PICTURES, budgets[-1])["kept_indices"].shape == (3, budgets[-1])
    assert sizes[(9,)] > 30e6
    assert sizes[(9, 18)] - sizes[(9,)] < 1e6
    assert [path.name for path in (tmp_path / "2" / "onnx").glob("*_data")] == [
        "vision_encoder.onnx_data"
    ]
