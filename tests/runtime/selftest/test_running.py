"""A self-test passes on the machine that made it, for every form of artifact, and fails where a
graph computes something else behind sound checksums."""

import json

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from pocketvlm import VLM, Artifact, EngineSettings, Provider
from pocketvlm.errors import ArtifactError, EngineError
from pocketvlm.ort.settings import CPU_PROVIDER
from pocketvlm.selftest import run_self_test
from support import tiny_artifact as tiny
from support.self_tests import OTHER, alter, give_self_test, scale_weights
from support.tiny_artifact import read_manifest, write_manifest
from support.tiny_graphs import HIDDEN, IMAGE

K = 6
VISION, DECODER = "onnx/vision_encoder.onnx", "onnx/decoder_model_merged.onnx"


def plain(root, **options):
    return tiny.write_artifact(root, budgets=(K,), **options)


def dynamic(root):
    tiny.make_dynamic(root, plain(root), K, 40)


def thumbnails(root):
    tiny.make_thumbnails(root, plain(root), K)


def selectors(root):
    tiny.give_selectors(root, plain(root), (K,), extras=("deepstack_0",))


def extras(root):
    tiny.give_extras(root, plain(root), K, ("deepstack_0", "deepstack_1"), ("deepstack_0",))


FORMS = {
    "one tile": plain,
    "a clip": lambda root: tiny.write_clip_artifact(root, budgets=(K,)),
    "any size": dynamic,
    "tiles and a thumbnail": thumbnails,
    "tiles": lambda root: (plain(root), tiny.cut_pictures(root, 2, 2)),
    "by the question": selectors,
    "further features": extras,
    "both ways": lambda root: tiny.give_attention(root, plain(root), "pictures"),
    "by a guide's scores": lambda root: tiny.read_scores(root, plain(root), 3),
    "a guide": lambda root: tiny.give_scores(root, plain(root)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_artifact_passes_where_it_was_made(form, tmp_path):
    root = tmp_path / "artifact"
    FORMS[form](root)
    give_self_test(root)
    result = run_self_test(Artifact.open(root))
    assert [row.problem for row in result.graphs] == ["", ""]
    assert [row.graph for row in result.graphs] == [VISION, DECODER]
    assert result.passed
    figures = {figure.name for figure in result.graphs[1].figures}
    assert ("attention" in figures) == (form == "a guide")
    size = sum(path.stat().st_size for path in (root / "selftest").iterdir())
    assert size < 300_000
    data = json.loads(next((root / "selftest").glob("*.json")).read_text())
    tiles = sum(len(batch["kept_indices"]) for batch in data["vision"][0]["batches"])
    assert (tiles > 1) == (form in ("a clip", "tiles and a thumbnail", "tiles"))


GRIDS = [
    {"tokens": [1, 1]},
    {"tokens": [4096, 4096]},
    {"tokens": None},
    {"whole": None},
    {"whole": "last"},
    {"whole": "first"},
    {"whole_tokens": [1, 1]},
    {"whole_tokens": None},
    {"size": [1, 100_000]},
    {"size": [16, 16]},
    {"rows": 2, "columns": 2},
    {"rows": 3},
    {"rows": 4096, "columns": 4096},
]


@pytest.fixture(scope="module", params=["any size", "tiles", "tiles and a thumbnail", "a clip"])
def cut(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("cut") / "artifact"
    FORMS[request.param](root)
    give_self_test(root)
    return root


@pytest.mark.parametrize("change", GRIDS, ids=str)
def test_a_hostile_grid_is_refused_in_one_line_or_is_the_same(change, cut):
    medium = read_manifest(cut)["self_test"]["file"].partition("/")[2].removesuffix(".json")
    path = cut / "selftest" / f"{medium}.json"
    before = path.read_text()
    grid = json.loads(before)["grid"]
    changed = {key: value for key, value in (grid | change).items() if value is not None}
    alter(cut, lambda data: data.update(grid=changed), medium)
    try:
        if changed == grid:
            assert run_self_test(Artifact.open(cut)).passed
        else:
            with pytest.raises(ArtifactError) as refusal:
                run_self_test(Artifact.open(cut))
            assert "\n" not in str(refusal.value)
    finally:
        path.write_text(before)
        write_manifest(cut, read_manifest(cut))


def test_llama_cpp_reads_the_features_too(tmp_path):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    root = tmp_path / "artifact"
    plain(root)
    tiny.give_gguf(root)
    give_self_test(root)
    result = run_self_test(Artifact.open(root), EngineSettings(threads=1))
    assert [row.problem for row in result.graphs] == ["", ""]
    assert result.graphs[1].graph == "gguf/decoder-f32.gguf"
    VLM.load(root, settings=EngineSettings(threads=1, providers=OTHER.providers))


def test_without_an_engine_its_decoders_are_left_out(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    root = tmp_path / "artifact"
    plain(root)
    tiny.give_gguf(root)
    give_self_test(root)
    for module in ("checks", "running"):
        monkeypatch.setattr(f"pocketvlm.selftest.{module}.is_installed", lambda _: False)
    result = run_self_test(Artifact.open(root))
    assert [row.graph for row in result.graphs] == [VISION]
    assert result.left_out == ["llama.cpp"]


def test_a_client_finds_all_that_it_needs(tested_dir):
    """As a page or an app would compare, with nothing of this package."""
    manifest = json.loads((tested_dir / "pocketvlm.json").read_text())
    stated = manifest["self_test"]
    data = json.loads((tested_dir / stated["file"]).read_text())
    (picture,) = stated["pictures"]
    samples = np.asarray(Image.open(tested_dir / picture), dtype=np.float32)
    assert samples.shape == (IMAGE, IMAGE, 3)
    steps = tiny.PREPROCESSOR
    pixels = (samples / 255 - np.float32(steps["image_mean"])) / np.float32(steps["image_std"])
    session = ort.InferenceSession(tested_dir / VISION, providers=[CPU_PROVIDER])
    features, kept, scores = session.run(None, {"pixel_values": pixels.transpose(2, 0, 1)[None]})
    (batch,) = data["vision"][0]["batches"]
    assert kept.tolist() == batch["kept_indices"]
    for row, (tile, index) in enumerate(batch["rows"]):
        at = kept[tile].tolist().index(index)
        expected = batch["samples"]["image_features"]["values"][row]
        assert features[tile, at, batch["columns"]] == pytest.approx(expected, rel=1e-5, abs=1e-4)
        (expected,) = batch["samples"]["kept_scores"]["values"][row]
        assert scores[tile, at] == pytest.approx(expected, rel=1e-5, abs=1e-4)
    ids, slot = np.array(data["input_ids"]), manifest["decoder"]["image_token_id"]
    table = ort.InferenceSession(tested_dir / "onnx/embed_tokens.onnx", providers=[CPU_PROVIDER])
    (embeds,) = table.run(None, {"input_ids": ids[None]})
    embeds[0, ids == slot] = features[0]
    decoder = ort.InferenceSession(tested_dir / DECODER, providers=[CPU_PROVIDER])
    empty = np.zeros((1, 1, 0, HIDDEN), np.float32)
    feed = {
        "inputs_embeds": embeds,
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
    }
    feed |= {each.name: empty for each in decoder.get_inputs() if each.name.startswith("past")}
    logits = decoder.run(["logits"], feed)[0][0, 0]
    expected = data["decoder"]["logits"]["values"][0]
    assert logits[data["decoder"]["columns"]] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert int(logits.argmax()) == data["decoder"]["token_ids"][0]


DAMAGED = [
    (VISION, "patch", 1.01, "features differ"),
    (VISION, "score", -1.0, "kept 0"),
    ("onnx/vision_encoder.k12.onnx", "score", 1.01, "scores differ"),
    (DECODER, "o.1", 1.05, "logits differ"),
    ("onnx/embed_tokens.onnx", "embed", 0.9, "logits differ"),
]


@pytest.mark.parametrize(("graph", "weight", "factor", "what"), DAMAGED)
def test_a_graph_that_computes_something_else_is_refused(graph, weight, factor, what, tested_dir):
    """What is altered here behind right checksums is what a wrong kernel computes from sound
    files."""
    scale_weights(tested_dir, graph, weight, factor)
    budget = 12 if "k12" in graph else 6
    with pytest.raises(EngineError) as refusal:
        VLM.load(tested_dir, budget=budget, settings=OTHER)
    line = str(refusal.value)
    assert "\n" not in line
    assert what in line
    assert "AzureExecutionProvider" in line
    assert "--provider cpu" in line
    assert "embed" in graph or graph in line
    VLM.load(tested_dir, budget=budget)  # the CPU's own is what exports are made with
    with pytest.raises(EngineError):  # it is not forgotten, nor remembered as a pass
        VLM.load(tested_dir, budget=budget, settings=OTHER)


def test_a_graph_that_fails_is_a_row_with_its_error(tested_dir):
    scale_weights(tested_dir, VISION, "patch", float("inf"))
    result = run_self_test(Artifact.open(tested_dir))
    rows = {row.check: row for row in result.graphs}
    assert "not finite" in rows["image vision k=6 fp32"].error
    assert not rows["image onnx fp32 behind vision fp32"].passed
    assert rows["image vision k=12 fp32"].passed
    with pytest.raises(EngineError, match="not finite"):
        result.raise_if_failed(tested_dir)


def test_the_cpu_with_options_needs_no_self_test(tested_dir, checksum_cache):
    scale_weights(tested_dir, VISION, "patch", 1.1)
    options = {"arena_extend_strategy": "kSameAsRequested"}
    VLM.load(tested_dir, settings=EngineSettings(providers=(Provider(CPU_PROVIDER, options),)))
    assert not checksum_cache.with_name("trusted.json").exists()
