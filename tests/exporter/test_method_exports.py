"""Every method in a vision graph: through the parity gate, cut to smaller budgets, named, and
answered from."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx.utils import Extractor

from pocketvlm import VLM, Artifact, PocketVLMError, Sampling
from pocketvlm.artifact.metadata import SELECTION
from pocketvlm.cli import main
from pocketvlm.vision.encoder import VisionEncoder
from pocketvlm_export import ExportOptions
from pocketvlm_export.build import build_vision
from pocketvlm_export.graphs import PrunedVisionEncoder
from pocketvlm_export.loading import open_checkpoint
from pocketvlm_export.packaging import make_manifest, seal, write_card, write_manifest
from pocketvlm_export.planning import make_plan
from pocketvlm_export.pruning import PRUNERS, find_pruner
from pocketvlm_export.pruning.base import Pruner
from pocketvlm_export.quiet import quiet_transformers
from pocketvlm_export.verification import check_parity
from pocketvlm_export.verification.pictures import gate_pictures

# The others' graphs are no different: that of fastervlm is every other test's, random is uniform
# with other constants.
TRACED = ["vtc-cls", "gprune", "divprune", "scope", "score", "received-attention", "uniform"]
OPTIONS = {"vtc-cls": {"start_layer": "0"}, "score": {"features": "tower"}}
PICTURES = gate_pictures(3, (42, 42))
NOISE = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def artifacts(tiny_checkpoint, tiny_export, tmp_path_factory):
    """Artifacts of the methods at budget 18, int8 beside fp32, made once each; only vision graphs
    are built."""
    made = {}

    def make(name, *, merge_dropped=False):
        if (key := f"{name}-merged" if merge_dropped else name) not in made:
            checkpoint = open_checkpoint(str(tiny_checkpoint))
            options = ExportOptions(
                name,
                OPTIONS.get(name, {}),
                (18,),
                merge_dropped=merge_dropped,
                vision_precisions=("fp32", "int8"),
            )
            plan = make_plan(checkpoint, options)
            folder = shutil.copytree(tiny_export, tmp_path_factory.mktemp("methods") / key)
            for old in folder.glob("onnx/vision_encoder*"):
                old.unlink()
            decoder = {
                file.name: file.rename(folder / file.name) for file in (folder / "onnx").iterdir()
            }
            (folder / "onnx").rmdir()
            (folder / "onnx").mkdir()
            with quiet_transformers():
                build_vision(plan, folder, lambda _: None)
            for file, path in decoder.items():
                path.rename(folder / "onnx" / file)
            manifest = make_manifest(plan, folder, seal(plan, folder), {})
            parity = check_parity(checkpoint, Artifact(folder, manifest))
            write_manifest(replace(manifest, parity=replace(parity, passed=True)), folder)
            write_card(plan, folder)
            made[key] = folder, parity
        return made[key]

    return make


@pytest.mark.parametrize("name", TRACED)
def test_it_passes_the_gate_and_answers(artifacts, name):
    folder, parity = artifacts(name)
    assert parity.passed, parity
    assert parity.vision["kept_equal"]
    artifact = Artifact.open(folder)
    assert (artifact.manifest.pruning.method, artifact.manifest.pruning.nested) == (
        name,
        find_pruner(name).nested,
    )
    answer = VLM.load(folder, budget=5).generate(
        "What is it?", images=[NOISE], sampling=Sampling(max_new_tokens=2)
    )
    assert len(answer.kept_indices[0]) == 5
    assert answer.visual_tokens == {"before": 36, "after": 5}


@pytest.mark.parametrize("name", TRACED)
def test_a_batch_equals_its_pictures_one_by_one(artifacts, name):
    encoder = VisionEncoder.open(Artifact.open(artifacts(name)[0]))
    together, alone = (
        encoder.encode(PICTURES),
        [encoder.encode(picture[None]) for picture in PICTURES],
    )
    np.testing.assert_array_equal(
        together.kept_indices, np.concatenate([each.kept_indices for each in alone])
    )
    features = np.concatenate([each.image_features for each in alone])
    np.testing.assert_allclose(together.image_features, features, atol=1e-5)


@pytest.mark.parametrize("name", TRACED)
def test_the_graph_is_static_and_its_selection_is_named(artifacts, name):
    folder, _ = artifacts(name)
    for file in ("vision_encoder.onnx", "vision_encoder_quantized.onnx"):
        model = onnx.load(folder / "onnx" / file, load_external_data=False)
        operators = [node.op_type for node in model.graph.node]
        assert not {"NonZero", "Compress", "Loop", "If", "Scan"} & set(operators)
        tower = Extractor(model).extract_model(["pixel_values", "kept_indices"], ["image_features"])
        named = {node.name for node in model.graph.node if node.name.startswith(SELECTION)}
        # Whatever the features could be computed without, once the kept tokens are given, selects.
        assert {node.name for node in model.graph.node} - {
            node.name for node in tower.graph.node
        } <= named
        # Nor is anything named that computes features.
        weights = {node.op_type for node in tower.graph.node if node.name in named}
        assert weights <= {"Add", "Unsqueeze", "Expand", "GatherElements", "Concat"}


@pytest.mark.parametrize(("name", "merge_dropped"), [("visionzip", False), ("fastervlm", True)])
def test_graphs_that_merge_pass_the_gate_and_serve_their_own_budget(artifacts, name, merge_dropped):
    folder, parity = artifacts(name, merge_dropped=merge_dropped)
    assert parity.passed, parity
    assert parity.vision["kept_equal"]
    assert parity.vision["merged_compared"] > 0.7
    manifest = Artifact.open(folder).manifest
    assert (manifest.pruning.nested, manifest.pruning.merge_dropped) == (False, merge_dropped)
    stated = json.loads((folder / "pocketvlm.json").read_text())["pruning"]
    assert stated.get("merge_dropped", False) == merge_dropped
    for precision in ("fp32", "int8"):
        vlm = VLM.load(folder, vision_precision=precision)
        answer = vlm.generate("What?", images=[NOISE], sampling=Sampling(max_new_tokens=2))
        assert answer.visual_tokens == {"before": 36, "after": 18}
    with pytest.raises(PocketVLMError, match="budget 5 is not in this artifact, which serves 18"):
        VLM.load(folder, budget=5)
    with pytest.raises(PocketVLMError, match="budget 5 is not served by the loaded graph"):
        vlm.generate("What?", images=[NOISE], budget=5)
    card = (folder / "README.md").read_text()
    assert "no other number can be requested" in card
    assert ("with each the mean of itself and of the dropped ones" in card) == merge_dropped
    shown = CliRunner().invoke(main, ["inspect", str(folder)]).stdout
    assert (f"{name}, dropped ones merged, 36 tokens" in shown) == merge_dropped
    model = onnx.load(folder / "onnx" / "vision_encoder.onnx", load_external_data=False)
    operators = {node.op_type for node in model.graph.node}
    assert not {"NonZero", "Compress", "Loop", "If", "Scan"} & operators


def test_a_graph_that_merges_otherwise_fails_the_gate(artifacts, tiny_checkpoint):
    """The graph of one that merges what it drops, in an artifact that says that it does not."""
    folder, _ = artifacts("fastervlm", merge_dropped=True)
    artifact = Artifact.open(folder)
    pruning = replace(artifact.manifest.pruning, merge_dropped=False)
    other = replace(artifact, manifest=replace(artifact.manifest, pruning=pruning))
    parity = check_parity(open_checkpoint(str(tiny_checkpoint)), other)
    assert not parity.passed
    assert not parity.vision["passed"]
    assert parity.vision["kept_equal"]


def test_divprune_takes_four_nodes_a_pick(artifacts):
    model = onnx.load(
        artifacts("divprune")[0] / "onnx" / "vision_encoder.onnx", load_external_data=False
    )
    operators = [node.op_type for node in model.graph.node]
    assert [operators.count(name) for name in ("ArgMax", "Min")] == [18, 16]


def test_scope_takes_ten_nodes_a_pick(artifacts):
    model = onnx.load(
        artifacts("scope")[0] / "onnx" / "vision_encoder.onnx", load_external_data=False
    )
    operators = [node.op_type for node in model.graph.node]
    once = ("ArgMax", "Relu", "ScatterElements")
    assert [operators.count(name) for name in once] == [18, 18, 17]


def test_words_are_recorded_and_shown(artifacts):
    out, _ = artifacts("score")
    pruning = json.loads((out / "pocketvlm.json").read_text())["pruning"]
    assert pruning["options"] == {"features": "tower", "alpha": 0.3, "weight": "cls"}
    assert "; features tower, alpha 0.3, weight cls)" in (out / "README.md").read_text()


def refuse(checkpoint, tmp_path, *arguments):
    command = ["export", str(checkpoint), "-o", str(tmp_path / "out"), "--dry-run", *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["vtc-cls", "--pruner-option", "start_layer=3"],
            "start_layer is 3, behind layer 2, whose output .*: give 0..2",
        ),
        (
            ["gprune", "--pruner-option", "temperature=0.002"],
            "weakest edges of threshold 0.5 vanish in float32: give at least 0.00714",
        ),
        (
            ["gprune", "--pruner-option", "treshold=0.4"],
            "has no option 'treshold': choose from steps, ",
        ),
        (
            ["random", "--pruner-option", "seed=x"],
            "random option seed is 'x': expected a whole number",
        ),
        (
            ["scope", "--pruner-option", "weight=attention"],
            "scope option weight is 'attention': expected cls, received or none",
        ),
        (["divprune", "--budget", "37"], r"budget 37 is outside 1\.\.36"),
        (["magic"], "pruner 'magic' is unknown: choose from fastervlm, vtc-cls"),
        (["none", "--merge-dropped"], "pruner none drops nothing: leave --merge-dropped out"),
        (["visionzip", "--merge-dropped"], "pruner visionzip merges what it drops in a way of its"),
        (["visionzip", "--pruner-option", "weight=none"], "'none': expected cls or received"),
        (["visionzip", "--pruner-option", "contextual=1"], r"expected a number within 0\.\.0\.9"),
    ],
)
def test_what_is_refused_before_any_work(tiny_checkpoint, tmp_path, arguments, line):
    assert re.search(line, refuse(tiny_checkpoint, tmp_path, "--pruner", *arguments))


@pytest.mark.parametrize("name", PRUNERS)
def test_without_cls_only_methods_that_need_it_are_refused(tiny_checkpoint, name):
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    spec = replace(checkpoint.spec, vision=replace(checkpoint.spec.vision, has_cls=False))
    if "cls_row" not in find_pruner(name).reads:
        assert make_plan(replace(checkpoint, spec=spec), ExportOptions(name)).pruner.name == name
        return
    listed = [other for other in PRUNERS if "cls_row" not in find_pruner(other).reads]
    assert len(listed) > 5
    others = f"choose from {', '.join(listed)}"
    with pytest.raises(
        PocketVLMError, match=f"no .CLS. token that {name} could rank patches by: {others}"
    ):
        make_plan(replace(checkpoint, spec=spec), ExportOptions(name))


def test_options_are_recorded_and_shown(artifacts):
    out, _ = artifacts("vtc-cls")
    pruning = json.loads((out / "pocketvlm.json").read_text())["pruning"]
    assert (pruning["method"], pruning["options"], pruning["nested"]) == (
        "vtc-cls",
        {"start_layer": 0},
        True,
    )
    paper = "[arXiv 2412.05819](https://arxiv.org/abs/2412.05819)"
    assert f"(VTC-CLS, {paper}; start_layer 0)" in (out / "README.md").read_text()
    assert (
        "vtc-cls (start_layer 0), 36 tokens"
        in CliRunner().invoke(main, ["inspect", str(out)]).stdout
    )


class LargestFeatures(Pruner):
    """A method that reads what the projector reads."""

    reads = frozenset({"features"})

    def score(self, evidence):
        assert evidence.projected is None
        return evidence.features.norm(dim=-1)


def test_a_method_may_read_features(tiny_checkpoint):
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    spec = checkpoint.spec.vision
    with quiet_transformers(), torch.inference_mode():
        tower = checkpoint.family.load_tower(
            checkpoint.weights, checkpoint.spec, layers=spec.depth, attention="eager"
        )
        projector = checkpoint.family.load_projector(checkpoint.weights, checkpoint.spec)
        encoder = PrunedVisionEncoder(tower, projector, spec, LargestFeatures({}), 5)
        pixels = torch.from_numpy(PICTURES)
        result, indices, _ = encoder(pixels)
        states = tower(pixels, output_hidden_states=True).hidden_states[spec.depth][:, 1:]
        best = states.norm(dim=-1).topk(5).indices.sort().values
        expected = projector(torch.stack([rows[at] for rows, at in zip(states, best, strict=True)]))
    np.testing.assert_array_equal(indices, best)
    np.testing.assert_allclose(result, expected, atol=1e-5)
